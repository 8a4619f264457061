"""`semhitok data inspect DIR`: what a prepared folder holds, as one page without links outside.

semhitok data inspect data/train        # writes data/train/inspect.html
"""

import base64
import io
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.images import open_image
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.settings import InspectSettings
from data_pipelines.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    QUARANTINE_NAME,
    check_content,
    reason_kind,
)
from data_pipelines.records import RecordText
from runtime.errors import UserError
from runtime.files import write_text
from runtime.json_lines import json_values

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
    """Write the page of a prepared folder, and return it; damaged shards are refused."""
    import jinja2

    folder = settings.data
    if not (folder / MANIFEST_NAME).is_file() and (folder / "train" / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} holds a split; name {folder / 'train'} or {folder / 'test'}")
    dataset = PreparedDataset(folder)
    check_content(folder, dataset.manifest)
    lengths, texts = _read_texts(dataset.texts())
    pictures = PreparedDataset(folder, images_only=True)
    rng = random.Random(settings.seed)
    sample = sorted(rng.sample(range(len(pictures)), min(len(pictures), NUM_SIZED)))
    chosen = set(rng.sample(sample, min(len(sample), NUM_PICTURES)))
    sizes, sheet = _look(pictures, sample, chosen)
    # The rejects of a split stand beside its sides.
    above = folder if (folder / QUARANTINE_NAME).is_file() else folder.parent
    manifest = dataset.manifest
    counts = dict(manifest["counts"]) | {
        "images that come twice": manifest.get("duplicate_images", 0)
    }
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    charts = [_chart(title, values) for title, values in (lengths | sizes).items() if values]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # every text on the page is somebody else's
    )
    page = environment.get_template("inspect.html.j2").render(
        title=f"Prepared data: {folder.name}",
        lead=f"{len(dataset):,} records in {len(manifest['shards']):,} shards of together "
        f"{megabytes:,.1f} MB; content {dataset.fingerprint[:16]}.",
        counts=list(counts.items()),
        sources=manifest["licences"],
        sizes_note=f"Sizes are those of {len(sample):,} images, lengths of all records.",
        charts=charts,
        sheet_note=f"{len(sheet)} images chosen at random, with their first caption or question.",
        sheet=sheet,
        texts=texts,
        reasons=_reasons(above),
    )
    return write_text(settings.out or folder / PAGE_NAME, page)


def _read_texts(records: Iterator[RecordText]) -> tuple[dict[str, list], list[dict[str, str]]]:
    """Lengths of every text, and the first few texts that no image stands beside."""
    lengths: dict[str, list] = {
        "words in a caption": [],
        "questions about an image": [],
        "words in a question": [],
        "messages in a conversation": [],
        "characters in a plain text": [],
    }
    captions, questions, asked, messages, texts = lengths.values()
    shown: list[dict[str, str]] = []
    for record in records:
        captions += [len(caption.split()) for caption in record.captions]
        questions += [len(record.questions)] if record.questions else []
        asked += [len(q.question.split()) for q in record.questions]
        messages += [len(found.messages) for found in record.conversations]
        texts += [] if record.text is None else [len(record.text)]
        if len(shown) < NUM_TEXTS and (record.text is not None or record.conversations):
            spoken = record.conversations[0].messages if record.text is None else []
            content = record.text or " / ".join(f"{turn.role}: {turn.content}" for turn in spoken)
            shown.append({"id": record.record_id, "content": _short(content)})
    return lengths, shown


def _look(
    pictures: PreparedDataset, sample: list[int], chosen: set[int]
) -> tuple[dict[str, list], list[dict[str, str]]]:
    """Sizes of some images, and thumbnails of a few of them."""
    widths, heights, aspects, sheet = [], [], [], []
    for index in sample:
        record = pictures[index]
        assert record.image is not None
        image = open_image(record.image, name=f"the image of {record.record_id}")
        widths.append(image.width)
        heights.append(image.height)
        aspects.append(round(image.width / image.height, 2))
        if index not in chosen:
            continue
        words = record.captions[:1] or [question.question for question in record.questions[:1]]
        size = f"{image.width} × {image.height}"
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=85)
        encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
        shown = {"id": record.record_id, "image": f"data:image/jpeg;base64,{encoded}"}
        sheet.append(shown | {"caption": _short(" ".join(words)), "size": size})
    sizes: dict[str, list] = {
        "image width, pixels": widths,
        "image height, pixels": heights,
        "width over height": aspects,
    }
    return sizes, sheet


def _reasons(folder: Path) -> list[dict[str, Any]]:
    """Rejects by reason, the most frequent first, with an example of each."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    paths = [folder / QUARANTINE_NAME, folder / PARTS_NAME]
    for _, entry in (entry for path in paths if path.is_file() for entry in json_values(path)):
        kind = reason_kind(entry["reason"])
        counts[kind] += 1
        examples.setdefault(kind, f"{_short(entry['id'])}: {_short(entry['reason'])}")
    return [
        {"kind": kind, "count": count, "example": _printable(examples[kind])}
        for kind, count in counts.most_common()
    ]


def _chart(title: str, values: list[float]) -> dict[str, Any]:
    """A histogram, which the template draws as bars in a box of 100 x 40."""
    array = np.array(values)
    low, high = np.percentile(array, (1, 99), method="lower").tolist()
    if array.dtype.kind == "i":
        # Bars of equal whole width, or some would hold more numbers than others.
        step = max(1, -(-(high - low + 1) // NUM_BARS))
        num_bars = (high - low) // step + 1
    else:
        step, num_bars = (high - low) / NUM_BARS or 1, NUM_BARS
    # The few values that lie further out stand at the ends.
    bars = np.clip((array - low) // step, 0, num_bars - 1).astype(int)
    counts = np.bincount(bars, minlength=num_bars).tolist()
    median = np.percentile(array, 50, method="lower")
    note = f"{len(array):,} in all from {array.min():,} to {array.max():,}, mean "
    note += f"{array.mean():,.3g}, median {median:,}"
    return {"title": title, "counts": counts, "low": low, "high": high, "step": step, "note": note}


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _printable(text: str) -> str:
    """A text with lone surrogates, which ids of broken files may hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
