"""How many rows go through the model in one pass, so that no image depends on its batch.

A matrix library picks its kernel by the number of rows, and kernels differ in the last bit; a code
near the edge of its interval then falls on the other side. But from some number of rows on they
agree, row by row, wherever a row stands: from four on the CPUs with AVX2 seen so far, from sixteen
on those with AVX-512. That is a habit of the library and no promise, so it is checked at the start
on the model's own layers. A pass of fewer rows is padded, and one of more is split. The weights of
large models are prepacked, which makes all numbers of rows agree (see `prepacked`).

Holds for float32 on a CPU with one number of threads. GPU libraries are not checked, nor half
precision: there the same seed gives the same image in the same batch, and nearly always in another.
"""

import copy
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mllm.drawing.step.decoder_step import LeanStep, OwnStep
from mllm.drawing.step.slots import BLOCK_SIZE, SlotCache
from mllm.model.modeling_unified import UnifiedModel

SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)
REFERENCES = (2, 4, 16)
_known: "weakref.WeakKeyDictionary[nn.Module, dict]" = weakref.WeakKeyDictionary()


class Group(NamedTuple):
    """Slots of one pass."""

    first: int
    num_slots: int  # with an image
    num_rows: int  # to compute, padding among them


class RowGroups:
    """Splits the slots of a batch into passes whose numbers of rows agree.

    Args:
        sizes: numbers of rows that give a row the same bits, in rising order; empty where any
            number of rows may go together.
        rows_each: rows of a slot.
        batch_size: most slots; they take `num_rows`, padding among them.
    """

    def __init__(self, sizes: tuple[int, ...], rows_each: int, batch_size: int):
        self.sizes, self.rows_each = sizes, rows_each
        most = batch_size * rows_each
        self.slots_each = max(1, (min(most, sizes[-1]) if sizes else most) // rows_each)
        *_, last = self.split(batch_size)
        self.num_rows = last.first * rows_each + last.num_rows

    def split(self, num_slots: int) -> Iterator[Group]:
        """The passes of `num_slots` slots; each takes the smallest size that holds its rows."""
        for first in range(0, num_slots, self.slots_each):
            count = min(self.slots_each, num_slots - first)
            rows = count * self.rows_each
            yield Group(first, count, next((size for size in self.sizes if size >= rows), rows))


def agreeing_sizes(
    model: UnifiedModel, step: LeanStep | OwnStep, head: Any, adapter: Any
) -> tuple[int, ...]:
    """Numbers of rows that give a row the same bits in the parts that draw; found once for a model,
    empty where unchecked."""
    weight = model.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return ()
    key = type(step), torch.get_num_threads()
    remembered = _known.setdefault(model, {})
    if key not in remembered:
        width = model.config.text_config.hidden_size
        remembered[key] = sizes_that_agree(width, make_probe(model, step, head, adapter))
    return remembered[key]


@torch.no_grad()
def make_probe(
    model: UnifiedModel, step: LeanStep | OwnStep, head: Any, adapter: Any
) -> Callable[[Tensor], list[Tensor]]:
    """A function of (R, D) states: what drawing computes of them, tensors of R rows."""
    prefix = step.read(model.get_input_embeddings()(torch.tensor([0, 1])))
    if isinstance(step, LeanStep):  # its layers are alike: one is enough
        step = copy.copy(step)
        step.layers = step.layers[:1]
        prefix = replace(prefix, keys=prefix.keys[:1], values=prefix.values[:1])

    def probe(states: Tensor) -> list[Tensor]:
        cache = SlotCache(len(states))
        for row in range(len(states)):
            # Also of a length that depends on the number of rows, as the longest prompt may.
            cache.insert(row, prefix, BLOCK_SIZE * (1 + len(states) // 16))
        positions = torch.full((len(states),), len(prefix))
        cache.set_positions(0, positions, cache.capacity)
        codes = torch.zeros(len(states), dtype=torch.int64)
        return [
            step(states, positions, cache),
            head.semantic_scores(states),
            head.pixel_scores(states, codes, model.image_tokenizer),
            adapter(codes, model.image_tokenizer, codes),
        ]

    return probe


@torch.no_grad()
def sizes_that_agree(width: int, run: Callable[[Tensor], list[Tensor]]) -> tuple[int, ...]:
    """The `SIZES` at which `run`, see `make_probe`, gives rows of D = `width` the bits of passes of
    2, 4 or 16 rows, wherever they stand.

    Of the three, the one that lets most rows go together; (1,) where none agrees with itself.
    """
    rows = torch.randn(16, width, generator=torch.Generator().manual_seed(0))
    best: tuple[int, ...] = (1,)
    for reference in REFERENCES:
        parts = [run(part) for part in rows.split(reference)]
        expected = [torch.cat(part) for part in zip(*parts, strict=True)]
        agreeing = tuple(size for size in SIZES if _agrees(size, rows, expected, run))
        if reference in agreeing and agreeing[-1] > best[-1]:
            best = agreeing
        if best == SIZES:
            break
    return best


def _agrees(
    size: int, rows: Tensor, expected: list[Tensor], run: Callable[[Tensor], list[Tensor]]
) -> bool:
    # Each row of a full pass stands in a place of its own: turn them once through half of all.
    for shift in (0, 1, 7):
        turned = rows.roll(shift, 0).repeat(size // 16 + 1, 1)[:size]
        reference = [part.roll(shift, 0).repeat(size // 16 + 1, 1)[:size] for part in expected]
        if not all(map(torch.equal, run(turned), reference)):
            return False
    return True
