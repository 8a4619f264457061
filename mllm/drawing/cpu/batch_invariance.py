"""How many rows go through the model in one pass, so that no image depends on its company.

A matrix library picks its kernel by the number of rows, and kernels differ in the last bit; a code
near the edge of its interval then falls on the other side. But from some number of rows on they
agree, row by row, wherever a row stands: from four on the CPUs with AVX2 seen so far, from sixteen
on those with AVX-512. That is a habit of the library and no promise, so it is checked at the start
on the model's own layers. A pass of fewer rows is padded, and one of more is cut. The matrices of
large models are packed, which makes all numbers of rows agree (see `mllm.drawing.cpu.prepacked`).

Holds for float32 on a CPU with one number of threads. GPU libraries are not checked, nor half
precision: there the same seed gives the same image in the same batch, and nearly always in another.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

SIZES = (2, 4, 8, 12, 16, 24, 32, 48, 64)
REFERENCES = (2, 4, 16)
_known: "weakref.WeakKeyDictionary[torch.nn.Module, dict]" = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Passes:
    """Numbers of rows that give a row the same bits.

    Attributes:
        sizes: in rising order; a pass takes the smallest that holds its rows. Empty where any
            number of rows may go together.
    """

    sizes: tuple[int, ...] = ()

    def padded(self, num_rows: int) -> int:
        """Rows to compute for `num_rows` that are wanted, at most `largest`."""
        return next((size for size in self.sizes if size >= num_rows), num_rows)

    def largest(self, num_rows: int) -> int:
        """Rows of one pass where `num_rows` are wanted in all."""
        return min(num_rows, self.sizes[-1]) if self.sizes else num_rows


def find_passes(
    model: torch.nn.Module,
    key: object,
    width: int,
    dtype: torch.dtype,
    run: Callable[[Tensor], list[Tensor]],
) -> Passes:
    """Find the sizes that agree, once for a model.

    Args:
        model: what the answer is remembered for, with its number of threads and `key`.
        key: whatever else it depends on.
        width: D.
        dtype: of the states.
        run: (R, D) random states → tensors of R rows, computed as drawing computes them.
    """
    key = (key, torch.get_num_threads())
    remembered = _known.setdefault(model, {})
    if key not in remembered:
        checked = next(model.parameters()).device.type == "cpu" and dtype == torch.float32
        remembered[key] = Passes(agreeing_sizes(width, run)) if checked else Passes()
    return remembered[key]


@torch.no_grad()
def agreeing_sizes(width: int, run: Callable[[Tensor], list[Tensor]]) -> tuple[int, ...]:
    """The `SIZES` that give rows the bits of passes of 2, 4 or 16 rows, whatever their place.

    Of the three, what lets most rows go together; (1,) where none agrees with itself.
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
    # Each row of a full pass is at a place of its own: turn them once through half of all.
    for shift in (0, 1, 7):
        turned = rows.roll(shift, 0).repeat(size // 16 + 1, 1)[:size]
        reference = [part.roll(shift, 0).repeat(size // 16 + 1, 1)[:size] for part in expected]
        if not all(map(torch.equal, run(turned), reference)):
            return False
    return True
