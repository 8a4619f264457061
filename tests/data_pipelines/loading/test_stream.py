import io
import itertools
import json
import random
from collections import Counter

import pytest
import torch
from PIL import Image

from data_pipelines.loading.stream import CaptionedImage, Stream, StreamSource
from data_pipelines.loading.transforms import ImageTransform
from data_pipelines.records import Record
from runtime.errors import UserError

SIZES = {"a": 37, "b": 12, "c": 5}
WEIGHTS = {"a": 3.0, "b": 2.0, "c": 1.0}


def make(record: Record, draw: random.Random) -> tuple[str, float]:
    """An item that shows the record and what was drawn for it."""
    return record.record_id, draw.random()


def keep(items: list) -> list:
    return items


def sources(**settings) -> list[StreamSource]:
    return [
        StreamSource(
            name, [Record(f"{name}{i}", None, text="x") for i in range(size)], WEIGHTS[name],
            **settings,
        )
        for name, size in SIZES.items()
    ]  # fmt: skip


def stream(batch_size: int = 8, num_batches: int | None = None, **settings) -> Stream:
    return Stream(sources(), make, batch_size, seed=5, collate=keep, **settings)


def take(opened: Stream, count: int) -> list:
    batches = []
    for batch in opened:
        batches.append(batch)
        if len(batches) == count:
            break
    return batches


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow),
                                         pytest.param(3, marks=pytest.mark.slow)])  # fmt: skip
def test_stopped_after_k_batches_it_goes_on_with_the_same(num_workers):
    whole = take(stream(), 40)
    assert len({item for batch in whole for item in batch}) == 320  # every draw is another
    draw = random.Random(num_workers)
    for stop in [draw.randrange(1, 36) for _ in range(30)]:
        opened = stream(num_workers=num_workers)
        assert take(opened, stop) == whole[:stop]
        state = json.loads(json.dumps(opened.state_dict()))
        again = stream(num_workers=num_workers)
        again.load_state_dict(state)
        assert take(again, 40 - stop) == whole[stop:]


def test_the_rest_is_the_same_to_its_end_on_other_numbers_of_workers():
    whole = take(stream(num_workers=2), 40)
    opened = stream(num_workers=0)
    take(opened, 9)
    again = stream(num_workers=1)
    again.load_state_dict(opened.state_dict())
    assert take(again, 31) == whole[9:]
    assert opened.state_dict() != again.state_dict()


def test_iterating_again_goes_on_too():
    opened, whole = stream(), take(stream(), 10)
    assert take(opened, 3) + take(opened, 7) == whole


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ranks_see_each_record_exactly_once_an_epoch(world_size, num_workers):
    seen: Counter[str] = Counter()
    batches = []
    for rank in range(world_size):
        opened = Stream(
            sources(epochs=3), make, 8, seed=5, collate=keep, rank=rank, world_size=world_size,
            num_workers=num_workers,
        )  # fmt: skip
        batches.append(list(opened))
        seen.update(name for batch in batches[-1] for name, _ in batch)
    assert seen == {f"{name}{i}": 3 for name, size in SIZES.items() for i in range(size)}
    # Together they read what one rank reads, batch by batch.
    alone = list(Stream(sources(epochs=3), make, 8, seed=5, collate=keep))
    together = [
        [item for rank in batches for item in (rank[step] if step < len(rank) else [])]
        for step in range(len(alone))
    ]
    assert together == alone


def test_a_state_goes_on_with_another_number_of_ranks():
    whole = take(stream(), 12)
    state = None
    for rank in range(2):
        opened = stream(rank=rank, world_size=2)
        take(opened, 5)
        assert state is None or opened.state_dict() == state  # alike on all ranks
        state = opened.state_dict()
    parts = []
    for rank in range(4):
        opened = stream(rank=rank, world_size=4)
        opened.load_state_dict(state)
        parts.append(take(opened, 7))
    assert [list(itertools.chain(*batch)) for batch in zip(*parts, strict=True)] == whole[5:]


def test_a_batch_that_ranks_cannot_share_is_refused():
    with pytest.raises(UserError, match="a batch of 8 records cannot be shared by 3 ranks"):
        stream(world_size=3)


def captioned(number: int, *captions: str) -> Record:
    buffer = io.BytesIO()
    image = Image.new("RGB", (24, 16), (number, 0, 0))
    image.putpixel((4, 0), (255, 255, 255))
    image.save(buffer, "PNG")
    return Record(f"r{number}", buffer.getvalue(), list(captions))


def test_captions_are_chosen_and_dropped_anew_each_epoch():
    records = [captioned(i, "one", "two", "three") for i in range(60)] + [captioned(60)]
    item = CaptionedImage(ImageTransform(16), caption_dropout=0.25)
    opened = Stream([StreamSource("s", records, epochs=4)], item, 61, seed=1)
    epochs = list(opened)
    assert len(epochs) == 4
    assert epochs[0]["pixels"].shape == (61, 16, 16, 3) and epochs[0]["pixels"].dtype == torch.uint8
    chosen = [dict(zip(e["record_id"], e["caption"], strict=True)) for e in epochs]
    assert chosen[0] != chosen[1]
    assert all(each["r60"] == "" for each in chosen)
    counts = Counter(text for each in chosen for name, text in each.items() if name != "r60")
    assert 40 <= counts[""] <= 80  # of 240, a quarter
    assert all(counts[text] >= 35 for text in ("one", "two", "three"))


def test_the_same_seed_gives_the_same_batches_bit_by_bit():
    def batches() -> list:
        item = CaptionedImage(ImageTransform(16, crop="random", flip=True), caption_dropout=0.5)
        records = [captioned(i, "a", "b") for i in range(10)]
        return list(Stream([StreamSource("s", records, epochs=2)], item, 4, seed=7))

    for first, second in zip(batches(), batches(), strict=True):
        assert torch.equal(first["pixels"], second["pixels"])
        assert first["caption"] == second["caption"]
