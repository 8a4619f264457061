"""The questions that a report shows, with their pictures."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from data_pipelines.images import open_image, write_png
from eval.vqa.scorers.task import Judged, image_data
from runtime.json_lines import write_rows
from runtime.run_folder import make_folder

NUM_WRONG_SHOWN = 16
NUM_RIGHT_SHOWN = 8

Row = Mapping[str, Any]


def pick_examples(rows: Sequence[Row], limit: int, seed: int = 0) -> list[Row]:
    """At most `limit` rows, drawn at random with the question types taking turns.

    Without the turns nearly all questions that a report shows would be of the most frequent type.
    """
    by_type: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_type[row["type"]].append(row)
    shuffler = random.Random(seed)
    for group in by_type.values():
        shuffler.shuffle(group)
    turns = zip_longest(*(by_type[name] for name in sorted(by_type)))
    return [row for row in chain.from_iterable(turns) if row is not None][:limit]


def write_examples(judged: Sequence[Judged], rows: Sequence[Row], out_dir: Path) -> None:
    """Save wrong and right answers with their images, so that a report needs no data set.

    Where the images are not at hand, as for predictions of other systems, nothing is written.
    """
    pictures = {entry.question.question_id: entry.question.images for entry in judged}
    if not all(pictures.values()):
        return
    wrong = pick_examples([row for row in rows if not row["correct"]], NUM_WRONG_SHOWN)
    right = pick_examples([row for row in rows if row["correct"]], NUM_RIGHT_SHOWN)
    make_folder(out_dir / "images")
    names: dict[str, str] = {}
    examples = []
    for row in wrong + right:
        key = row["image_id"]
        if key not in names:
            # Numbered, not named by image id: an id may hold characters that no file name may.
            names[key] = f"images/{len(names):03d}.png"
            data = image_data(pictures[row["question_id"]][0])
            write_png(open_image(data, name=f"the image {key}"), out_dir / names[key])
        examples.append({**row, "image": names[key]})
    write_rows(out_dir / "examples.jsonl", examples)
