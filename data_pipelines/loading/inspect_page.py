"""`semhitok data inspect DIR`: what a prepared folder holds, as one page without links outside.

semhitok data inspect data/train        # writes data/train/inspect.html
"""

from __future__ import annotations

import base64
import io
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.images import open_image
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.settings import InspectSettings
from data_pipelines.manifest import MANIFEST_NAME, QUARANTINE_NAME, reason_kind
from data_pipelines.records import RecordText
from runtime.errors import UserError
from runtime.files import write_text

PAGE_NAME = "inspect.html"
NUM_PICTURES = 48
"""On the contact sheet."""
NUM_SIZED = 1000
"""Most images that are decoded to learn their sizes."""
NUM_TEXTS = 6
NUM_BARS = 24
THUMBNAIL = 160
"""Longer side, in pixels."""
SHOWN_CHARACTERS = 300


def inspect_data(settings: InspectSettings) -> Path:
    """Write the page of a prepared folder.

    Returns:
        The page.

    Raises:
        UserError: if the folder holds no prepared data, or holds a split with two.
    """
    import jinja2

    folder = settings.data
    if not (folder / MANIFEST_NAME).is_file() and (folder / "train" / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} holds a split; name {folder / 'train'} or {folder / 'test'}")
    dataset = PreparedDataset(folder)
    lengths, texts = _read_texts(dataset.texts())
    pictures = PreparedDataset(folder, images_only=True)
    rng = random.Random(settings.seed)
    sample = sorted(rng.sample(range(len(pictures)), min(len(pictures), NUM_SIZED)))
    chosen = set(rng.sample(sample, min(len(sample), NUM_PICTURES)))
    sizes, sheet = _look(pictures, sample, chosen)
    quarantine = next(
        (p for p in (folder / QUARANTINE_NAME, folder.parent / QUARANTINE_NAME) if p.is_file()),
        None,
    )
    reasons = _reasons(quarantine)
    manifest = dataset.manifest
    counts = dict(manifest["counts"]) | {
        "images that come twice": manifest.get("duplicate_images", 0)
    }
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    charts = [
        _chart("words in a caption", lengths["captions"]),
        _chart("questions about an image", lengths["questions"]),
        _chart("words in a question", lengths["question words"]),
        _chart("messages in a conversation", lengths["messages"]),
        _chart("characters in a plain text", lengths["texts"]),
        _chart("image width, pixels", sizes["width"]),
        _chart("image height, pixels", sizes["height"]),
        _chart("width over height", sizes["aspect"]),
    ]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # every text on the page is somebody else's
        trim_blocks=False,
    )
    page = environment.get_template("inspect.html.j2").render(
        title=f"Prepared data: {folder.name}",
        lead=f"{len(dataset):,} records in {len(manifest['shards']):,} shards of together "
        f"{megabytes:,.1f} MB; content {dataset.fingerprint[:16]}.",
        counts=[(name, count) for name, count in counts.items()],
        sources=manifest["licences"],
        sizes_note=f"Sizes are those of {len(sample):,} images, lengths of all records.",
        charts=[chart for chart in charts if chart],
        sheet_note=f"{len(sheet)} images chosen at random, with their first caption or question.",
        sheet=sheet,
        texts=texts,
        reasons=reasons,
    )
    return write_text(settings.out or folder / PAGE_NAME, page)


def _read_texts(records: Iterator[RecordText]) -> tuple[dict[str, Counter], list[dict[str, str]]]:
    """Lengths of every text, counted, and the first few texts that no image stands beside."""
    names = ("captions", "questions", "question words", "messages", "texts")
    lengths: dict[str, Counter] = {name: Counter() for name in names}
    shown: list[dict[str, str]] = []
    for record in records:
        lengths["captions"].update(len(caption.split()) for caption in record.captions)
        if record.questions:
            lengths["questions"][len(record.questions)] += 1
        lengths["question words"].update(len(q.question.split()) for q in record.questions)
        lengths["messages"].update(len(found.messages) for found in record.conversations)
        if record.text is not None:
            lengths["texts"][len(record.text)] += 1
        if len(shown) < NUM_TEXTS and (record.text is not None or record.conversations):
            spoken = [
                f"{message.role}: {message.content}"
                for conversation in record.conversations[:1]
                for message in conversation.messages
            ]
            content = record.text if record.text is not None else " / ".join(spoken)
            shown.append({"id": record.record_id, "content": _short(content)})
    return lengths, shown


def _look(
    pictures: PreparedDataset, sample: list[int], chosen: set[int]
) -> tuple[dict[str, Counter], list[dict[str, str]]]:
    """Sizes of some images, counted, and thumbnails of a few of them."""
    sizes: dict[str, Counter] = {name: Counter() for name in ("width", "height", "aspect")}
    sheet = []
    for index in sample:
        record = pictures[index]
        assert record.image is not None
        image = open_image(record.image, name=f"the image of {record.record_id}")
        sizes["width"][image.width] += 1
        sizes["height"][image.height] += 1
        sizes["aspect"][round(image.width / image.height, 2)] += 1
        if index not in chosen:
            continue
        words = record.captions[:1] or [question.question for question in record.questions[:1]]
        size = f"{image.width} × {image.height}"
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        sheet.append(
            {
                "id": record.record_id,
                "image": f"data:image/jpeg;base64,{encoded}",
                "caption": _short(" ".join(words)),
                "size": size,
            }
        )
    return sizes, sheet


def _reasons(quarantine: Path | None) -> list[dict[str, Any]]:
    """Rejects by reason, the most frequent first, with an example of each."""
    if quarantine is None:
        return []
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    with open(quarantine, encoding="utf-8") as file:
        for line in file:
            entry = json.loads(line)
            kind = reason_kind(entry["reason"])
            counts[kind] += 1
            examples.setdefault(kind, f"{_short(entry['id'])}: {_short(entry['reason'])}")
    return [
        {"kind": kind, "count": count, "example": _printable(examples[kind])}
        for kind, count in counts.most_common()
    ]


def _chart(title: str, counted: Counter) -> dict[str, Any] | None:
    """A histogram as bars in a box of 100 x 40; None of nothing."""
    if not counted:
        return None
    low, high = _quantile(counted, 0.01), _quantile(counted, 0.99)
    whole = all(isinstance(value, int) for value in counted)
    # Whole numbers get bars of equal whole width, or some bars would hold more numbers than others.
    step: float = (
        max(1, -(-(high - low + 1) // NUM_BARS)) if whole else (high - low) / NUM_BARS or 1
    )
    bars = Counter[int]()
    for value, count in counted.items():  # the few that lie further out stand at the ends
        bars[min(max(0, int((value - low) / step)), int((high - low) / step), NUM_BARS - 1)] += (
            count
        )
    num_bars = max(bars) + 1
    tallest = max(bars.values())
    total = counted.total()
    mean = sum(value * count for value, count in counted.items()) / total
    drawn = [
        {
            "x": f"{100 * number / num_bars:.2f}",
            "y": f"{40 - 40 * count / tallest:.2f}",
            "width": f"{92 / num_bars:.2f}",
            "height": f"{40 * count / tallest:.2f}",
            "label": f"from {low + number * step:g}: {count:,}",
        }
        for number, count in sorted(bars.items())
    ]
    return {
        "title": title,
        "bars": drawn,
        "low": f"{low:,}",
        "high": f"{high:,}",
        "note": f"{total:,} in all from {min(counted):,} to {max(counted):,}, mean {mean:,.3g}, "
        f"median {_quantile(counted, 0.5):,}",
    }


def _quantile(counted: Counter, share: float) -> Any:
    """The value that so large a share of the others does not exceed."""
    left = int(share * (counted.total() - 1))
    for value in sorted(counted):
        left -= counted[value]
        if left < 0:
            return value
    raise AssertionError("nothing was counted")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _printable(text: str) -> str:
    """A text with lone surrogates, which ids of broken files may hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
