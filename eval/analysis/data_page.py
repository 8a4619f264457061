"""`semhitok data inspect DIR`: what a prepared folder holds, as one page without links outside.

semhitok data inspect data/train        # writes data/train/inspect.html
"""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.images import open_image
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.manifest import (
    MANIFEST_NAME,
    PARTS_NAME,
    QUARANTINE_NAME,
    check_content,
    reason_kind,
)
from data_pipelines.records import RecordText
from eval.analysis.settings import InspectSettings
from eval.reports.figures import embed_picture, histogram
from eval.reports.page import Card, Report, Section, html_page
from runtime.errors import UserError
from runtime.files import write_text
from runtime.json_lines import json_values

PAGE_NAME = "inspect.html"
NUM_PICTURES = 48
"""On the contact sheet."""
NUM_SIZED = 1000
"""Most images that are decoded to learn their sizes."""
NUM_TEXTS = 6
THUMBNAIL = 160
"""Longer side, in pixels."""
SHOWN_CHARACTERS = 300


def inspect_data(settings: InspectSettings) -> Path:
    """Write the page of a prepared folder, and return it; damaged shards are refused."""
    folder = settings.data
    if not (folder / MANIFEST_NAME).is_file() and (folder / "train" / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} holds a split; name {folder / 'train'} or {folder / 'test'}")
    dataset = PreparedDataset(folder)
    manifest = dataset.manifest
    check_content(folder, manifest)
    lengths, texts = _read_texts(dataset.texts())
    pictures = PreparedDataset(folder, images_only=True)
    rng = random.Random(settings.seed)
    sample = sorted(rng.sample(range(len(pictures)), min(len(pictures), NUM_SIZED)))
    sizes, cards = _look(pictures, sample, set(rng.sample(sample, min(len(sample), NUM_PICTURES))))
    # The rejects of a split stand beside its sides.
    rejects = _rejects(folder if (folder / QUARANTINE_NAME).is_file() else folder.parent)
    twice = {"images that come twice": manifest.get("duplicate_images", 0)}
    counts = [(name, f"{count:,}") for name, count in (manifest["counts"] | twice).items()]
    sources = [(each["source"], each["licence"], each["origin"]) for each in manifest["licences"]]
    numbered = enumerate((name, values) for name, values in (lengths | sizes).items() if values)
    charts = {_summary(*each): histogram(each[1], f"chart-{number}") for number, each in numbered}
    megabytes = sum(shard["bytes"] for shard in manifest["shards"]) / 1e6
    sized = f"Sizes are those of {len(sample):,} images, lengths of all records."
    shown = f"{len(cards)} images chosen at random, with their first caption or question."
    because = ("records", "reason", "for example")
    sections = [
        Section("Counts", rows=counts),
        Section("Sources", "", ("source", "licence", "origin"), sources),
        Section("Lengths and sizes", sized, charts=charts),
        Section("Contact sheet", shown, cards=cards),
        Section("Texts", "" if texts else "No plain text or conversation.", rows=texts),
        Section("Rejects", "" if rejects else "None.", because if rejects else (), rejects),
    ]
    title = f"Prepared data: {folder.name}"
    lead = f"{len(dataset):,} records in {len(manifest['shards']):,} shards of together "
    lead += f"{megabytes:,.1f} MB; content {dataset.fingerprint[:16]}."
    return write_text(settings.out or folder / PAGE_NAME, html_page(Report(title, lead, sections)))


def _read_texts(records: Iterator[RecordText]) -> tuple[dict[str, list], list[tuple[str, str]]]:
    """Lengths of every text, and the first few that stand beside no image, with their ids."""
    lengths: dict[str, list] = {
        "words in a caption": [],
        "questions about an image": [],
        "words in a question": [],
        "messages in a conversation": [],
        "characters in a plain text": [],
    }
    captions, questions, asked, messages, texts = lengths.values()
    shown: list[tuple[str, str]] = []
    for record in records:
        captions += [len(caption.split()) for caption in record.captions]
        questions += [len(record.questions)] if record.questions else []
        asked += [len(q.question.split()) for q in record.questions]
        messages += [len(found.messages) for found in record.conversations]
        texts += [] if record.text is None else [len(record.text)]
        if len(shown) < NUM_TEXTS and (record.text is not None or record.conversations):
            spoken = record.conversations[0].messages if record.text is None else []
            content = record.text or " / ".join(f"{turn.role}: {turn.content}" for turn in spoken)
            shown.append((record.record_id, _short(content)))
    return lengths, shown


def _look(
    pictures: PreparedDataset, sample: list[int], chosen: set[int]
) -> tuple[dict[str, list], list[Card]]:
    """Sizes of some images, and thumbnails of a few of them."""
    widths, heights, aspects, cards = [], [], [], []
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
        picture = embed_picture(np.asarray(image))
        cards.append(Card(record.record_id, [(picture, _short(" ".join(words)))], note=size))
    sizes: dict[str, list] = {
        "image width, pixels": widths,
        "image height, pixels": heights,
        "width over height": aspects,
    }
    return sizes, cards


def _rejects(folder: Path) -> list[tuple[str, str, str]]:
    """Number, reason and an example of the rejects of each reason, the most frequent first."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    paths = [folder / QUARANTINE_NAME, folder / PARTS_NAME]
    for _, entry in (entry for path in paths if path.is_file() for entry in json_values(path)):
        kind = reason_kind(entry["reason"])
        counts[kind] += 1
        examples.setdefault(kind, f"{_short(entry['id'])}: {_short(entry['reason'])}")
    return [(f"{n:,}", kind, _printable(examples[kind])) for kind, n in counts.most_common()]


def _summary(title: str, values: Sequence[float]) -> str:
    median = np.percentile(values, 50, method="lower")
    return (
        f"{title}: {len(values):,} in all from {min(values):,} to {max(values):,}, "
        f"mean {np.mean(values):,.3g}, median {median:,}"
    )


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"


def _printable(text: str) -> str:
    """A text with lone surrogates, which ids of broken files may hold, written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
