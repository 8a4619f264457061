"""The pass of drawing as one compiled function: the choice of a code, its embedding, all layers.

A pass of a small model is hundreds of small calls, which take longer than what they compute;
compiled, they are one. That is worthwhile for lists long enough to win back the compilation, which
takes some 20 seconds for a small model and 80 for one of 200 million numbers. A large model waits
for its matrices rather than for calls; it gains a fifth, mostly in attention.
"""

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch._inductor.config
from accelerate.utils import patch_environment
from torch import Tensor, nn
from torch._inductor.utils import fresh_cache
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from mllm.drawing.step.choice import CodeChoice
from mllm.drawing.step.decoder_step import LeanStep, OwnStep
from mllm.drawing.step.slots import BLOCK_SIZE, SlotCache, Slots
from runtime.errors import UserError, one_line, says

# On a CPU.
OPTIONS: dict[str, Any] = {
    # Products by kernels of the compiler's own, which lay the weights out once for few rows: a
    # matrix library brings them into its order in each call. Only these, since the choice between
    # several is by stopwatch, and another one changes the last bit.
    "max_autotune": True,
    "max_autotune_gemm_backends": "CPP",
    # Queries are computed once, not again for each key that they meet.
    "realize_opcount_threshold": 6,
}
# Large matrices are laid out by oneDNN, as in `prepacked`: for them its kernels are quicker.
PREPACKED_OPTIONS: dict[str, Any] = {"freezing": True, "realize_opcount_threshold": 6}
# Positions that rotary embeddings are tabled for. A longer cache is compiled for anew.
LEAST_TABLED = 2048


class CompiledPass:
    """The compiled pass, always of all slots.

    Args:
        choice, embed, step: what the pass computes; see `parts.Parts`.
        prepacked: whether their weights are prepacked.
        num_rows: of the batch.
        ahead_of_time: compile it ahead of time, so that a call does not ask what has changed since,
            as by default on a CPU. Else by `torch.compile`, anew where the cache has grown, since
            on a GPU a shape that never changes is quicker.

    Attributes:
        spare_positions: of the cache beyond the longest row: what is compiled ahead of time holds
            for fewer visible positions than there are.
        growth: positions that the cache should grow by at a time.

    Raises:
        UserError: on a CPU without a C++ compiler, or, in the first call, where it fails.
    """

    def __init__(
        self,
        choice: CodeChoice,
        embed: Callable[[Tensor, Tensor], Tensor],
        step: LeanStep | OwnStep,
        prepacked: bool,
        num_rows: int,
        ahead_of_time: bool | None = None,
    ):
        on_cpu = choice.scales.device.type == "cpu"
        self.module, self.step, self.num_rows = _Pass(choice, embed, step), step, num_rows
        self.options = PREPACKED_OPTIONS if prepacked else OPTIONS
        self.ahead_of_time = on_cpu if ahead_of_time is None else ahead_of_time
        self.spare_positions = 2 * BLOCK_SIZE if self.ahead_of_time else 0
        self.growth = BLOCK_SIZE if self.ahead_of_time else 8 * BLOCK_SIZE
        if on_cpu and shutil.which(_compiler()) is None:
            raise UserError(
                f"Compiling the pass takes a C++ compiler, and there is no {_compiler()}: install "
                f"it, name another one in the variable CXX, or draw without --compile."
            )
        self._tabled = 0
        self._run: Callable[..., Any] = torch.compile(self.module, dynamic=False)

    def __call__(self, slots: Slots) -> None:
        """Draw one code a slot, note it, and append it to its rows."""
        cache = slots.cache
        num_visible = cache.capacity
        if self.ahead_of_time:
            num_visible = cache.num_visible(max(image.longest for image in slots.images))
        blocks = torch.empty(num_visible // BLOCK_SIZE, device=slots.hidden.device)
        inputs = (
            slots.hidden, slots.uniform, slots.kept, slots.codes, slots.positions,
            slots.cache_positions, slots.active, blocks, cache.keys, cache.values,
        )  # fmt: skip
        if cache.capacity > self._tabled:
            # Twice as many each time: a list of ever longer prompts compiles a few times only.
            tabled = max(cache.capacity, 2 * self._tabled, LEAST_TABLED)
            if isinstance(self.step, LeanStep):
                self.step.rotary(slots.cache_positions[:1], tabled, slots.hidden.dtype)
            if self.ahead_of_time:
                self._run = _compile(self.module, inputs, self.options)
            self._tabled = tabled  # only now, as compiling may fail
        self._run(*inputs)


class _Pass(nn.Module):
    def __init__(
        self,
        choice: CodeChoice,
        embed: Callable[[Tensor, Tensor], Tensor],
        step: LeanStep | OwnStep,
    ):
        super().__init__()
        self.choice, self.embed, self.step = choice, embed, step
        if isinstance(step, OwnStep):
            # A part of ours, so that its weights have names: the compiler lays out each constant
            # once and drops it, and a nameless one that is used twice would then be missing.
            self.decoder = step.decoder

    def forward(
        self,
        hidden: Tensor,
        uniform: Tensor,
        kept: Tensor,
        codes: Tensor,
        positions: Tensor,
        cache_positions: Tensor,
        active: Tensor,
        blocks: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        """(S,) flat codes; the tensors of `Slots` and its cache are changed in place.

        The length of `blocks` is the number of visible blocks of `BLOCK_SIZE` positions: the length
        of a tensor may be a dynamic shape.
        """
        each_row = self.choice.each_row
        drawn = self.choice(hidden, uniform, positions, kept)
        cache = SlotCache(len(cache_positions))
        cache.keys, cache.values, cache.capacity = keys, values, keys[0].shape[2]
        cache.set_positions(0, cache_positions, blocks.shape[0] * BLOCK_SIZE)
        embeddings = self.embed(each_row(drawn), each_row(positions))
        hidden.copy_(self.step(embeddings, cache_positions, cache))
        codes.scatter_(1, positions.unsqueeze(-1), drawn.unsqueeze(-1))
        positions.add_(active)
        cache_positions.add_(each_row(active))
        return drawn


def _compiler() -> str:
    """The one that torch calls."""
    if sys.platform == "win32":
        return os.environ.get("CXX", "cl")
    return torch._inductor.config.cpp.cxx[-1]


def _compile(module: nn.Module, inputs: tuple, options: dict[str, Any]) -> Callable[..., Any]:
    """The module compiled for a CPU, with any number of positions in the cache and visible.

    Raises:
        UserError: if the compiler fails, its files find no room, or the model is not of the kind.
    """
    *fixed, _, keys, values = inputs
    any_size = torch.export.Dim.DYNAMIC  # refuses to be one number
    shapes = (*[None] * len(fixed), {0: any_size}, *[[{2: any_size}] * len(keys)] * 2)
    example = (*fixed, torch.empty(2), keys, values)  # one block would stand for itself alone
    with warnings.catch_warnings(), _explained(), _square_blocks(len(inputs[0])):
        warnings.simplefilter("ignore", FutureWarning)  # torch's words to itself
        exported = torch.export.export(module, example, dynamic_shapes=shapes, strict=False)
        with tempfile.TemporaryDirectory() as folder:
            with fresh_cache(dir=folder):  # a cache would keep the weights on the disk for good
                package = torch._inductor.aoti_compile_and_package(
                    exported, package_path=str(Path(folder) / "pass.pt2"), inductor_configs=options
                )
            # torch's loader unpacks, weights and all, into a folder of its own, which a killed
            # process leaves behind: here into this one, which may go once all is loaded.
            with patch_environment(TMPDIR=folder):
                loader = torch._inductor.aoti_load_package(package).loader
    # torch remembers what it exported last, with the weights of that pass.
    getattr(proxy_tensor, "_FAKE_TENSOR_ID_TO_PROXY_MAP_FOR_EXPORT", {}).clear()

    def run(*inputs: Any) -> Any:
        # Straight to the loader: the package's own call reads its description anew each time,
        # which is a twentieth of a small model's pass.
        *tensors, keys, values = inputs
        return loader.run([*tensors, *keys, *values])

    return run


@contextmanager
def _square_blocks(num_rows: int) -> Iterator[None]:
    """Have the compiler multiply in blocks of 16 rows by 16 columns, if the rows divide by 16.

    With AVX-512 its own choice is 8 rows by 48 columns, the largest block that registers hold. For
    16 rows it then fetches each weight twice, and fetching weights is what takes the time: a fifth
    of the pass. There is no option for the size of a block, so those of 8 rows are taken off the
    compiler's list meanwhile; a list that looks otherwise than expected stays as it is. The numbers
    are the same.
    """
    try:
        import torch._inductor.lowering  # first, or the next import goes round in a circle
        from torch._inductor.codegen.cpp_micro_gemm import micro_gemm_configs as lists

        kind = next(kind for kind in lists if kind.__name__ == "CppMicroGemmFP32Vec")
        known = lists[kind]
        of_floats = [config for config in known if config.input_dtype == torch.float32]
        wide = {c.vec_isa_cls for c in of_floats if tuple(c.register_blocking[:2]) == (16, 16)}
        narrow = [c for c in of_floats if c.vec_isa_cls in wide and c.register_blocking[0] == 8]
    except (ImportError, AttributeError, StopIteration):
        num_rows = 0
    if num_rows == 0 or num_rows % 16:
        yield
        return
    lists[kind] = [config for config in known if config not in narrow]
    try:
        yield
    finally:
        lists[kind] = known


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what torch raises where it cannot compile into a `UserError`."""
    try:
        yield
    except GuardOnDataDependentSymNode as error:
        raise UserError(
            "This language model cannot be compiled, since what it computes depends on numbers "
            "that are not known before (rotary embeddings of the type 'dynamic' do): draw without "
            "--compile."
        ) from error
    except (OSError, RuntimeError) as error:  # the latter are also those of torch's compiler
        # A compiler's own words follow the whole command that it was called with.
        reasons = [line for line in str(error).splitlines() if "error:" in line]
        reason = one_line(reasons[0]) if reasons else says(error)
        raise UserError(
            f"The pass could not be compiled in {tempfile.gettempdir()} ({reason}): name a folder "
            f"with room for a gigabyte, and for three times the model's weights, in the variable "
            f"TMPDIR, fix the C++ compiler {_compiler()!r}, or draw without --compile."
        ) from error
