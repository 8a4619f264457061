"""The pass of drawing as one compiled function: the choice of a code, its embedding, all layers.

Of a small model a pass is hundreds of small calls, and the calls take longer than what they
compute; compiled, they are one. It pays on lists long enough to win back the compilation, which is
a few seconds for a small model and a minute and more for a large one, whose calls cost it little.

Shapes: R rows, D width, N image positions.
"""

import shutil
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semhitok.errors import UserError

from .decoder_step import LeanStep
from .slot_cache import PLACES, SlotCache

if TYPE_CHECKING:
    from .drawing import DrawingEngine


class CompiledPass:
    """The pass of a `DrawingEngine`, always of all its slots.

    Attributes:
        SPARE_PLACES: of the cache beyond the longest row. A length seen that equals the whole
            would be compiled as another shape.

    Raises:
        UserError: on a CPU without a C++ compiler.
    """

    SPARE_PLACES = PLACES

    def __init__(self, engine: "DrawingEngine"):
        self.engine = engine
        self.on_cpu = engine.model.device.type == "cpu"
        options: dict[str, Any] = {}
        if self.on_cpu:
            if not any(map(shutil.which, ("g++", "clang++", "cl"))):
                raise UserError(
                    "Compiling the pass takes a C++ compiler, and there is none: install g++ or "
                    "clang, or draw without --compile."
                )
            # Calls between the kernels from C++ too: they are a third of a small model's pass.
            options["cpp_wrapper"] = True
        self._capacity = 0
        self._run = torch.compile(
            self._eager, dynamic=None if self.on_cpu else False, options=options
        )

    def __call__(
        self,
        hidden: Tensor,
        uniform: Tensor,
        places: Tensor,
        kept: Tensor,
        of_rows: Tensor,
        cache: SlotCache,
    ) -> tuple[Tensor, Tensor]:
        """Draw one code a slot and append it to its rows.

        Args:
            hidden, uniform, places, kept: see `DrawingEngine.choose_codes`.
            of_rows: (R,) place of the new token in each row of `cache`.
            cache: aimed at all its rows.

        Returns:
            (slots,) flat codes, and (R, D) states after them.
        """
        if cache.capacity != self._capacity:
            self._prepare(cache)
        # How far attention sees goes in as the length of a tensor, which may be a dynamic shape. On
        # a GPU it sees all places, since there a shape that never changes is quicker.
        seen = torch.empty(cache.seen if self.on_cpu else cache.capacity, device=hidden.device)
        if self.on_cpu:
            torch._dynamo.mark_dynamic(seen, 0)
        return self._run(hidden, uniform, places, kept, of_rows, seen, cache.keys, cache.values)

    def _prepare(self, cache: SlotCache) -> None:
        """Once for each capacity: what grows is no reason to compile anew."""
        self._capacity = cache.capacity
        step = self.engine.step
        if isinstance(step, LeanStep):
            step.rotary(
                torch.zeros(1, dtype=torch.int64, device=self.engine.model.device),
                cache.capacity,
                self.engine.dtype,
            )
        if self.on_cpu:
            for tensor in (*cache.keys, *cache.values):
                torch._dynamo.mark_dynamic(tensor, 1)

    def _eager(
        self,
        hidden: Tensor,
        uniform: Tensor,
        places: Tensor,
        kept: Tensor,
        of_rows: Tensor,
        seen: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> tuple[Tensor, Tensor]:
        codes = self.engine.choose_codes(hidden, uniform, places, kept)
        cache = SlotCache.over(keys, values, of_rows, len(seen))
        return codes, self.engine.step(self.engine.embed(codes, places), of_rows, cache)
