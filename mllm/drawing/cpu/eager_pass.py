"""The pass of drawing, uncompiled: slots in groups of rows that do not depend on each other."""

from collections.abc import Callable

from torch import Tensor

from mllm.drawing.cpu.batch_invariance import RowGroups
from mllm.drawing.step.choice import CodeChoice
from mllm.drawing.step.decoder_step import LeanStep, OwnStep
from mllm.drawing.step.slots import BLOCK_SIZE, Slots


class EagerPass:
    """Draws one code of each active slot.

    Args:
        choice, embed, step: what the pass computes; see `parts.Parts`.
        groups: which slots go together.

    Attributes:
        num_rows: of the batch, padding among them.
        spare_positions, growth: as of `CompiledPass`.
    """

    spare_positions, growth = 0, BLOCK_SIZE

    def __init__(
        self,
        choice: CodeChoice,
        embed: Callable[[Tensor, Tensor], Tensor],
        step: LeanStep | OwnStep,
        groups: RowGroups,
    ):
        self.choice, self.embed, self.step = choice, embed, step
        self.groups, self.num_rows = groups, groups.num_rows

    def __call__(self, slots: Slots) -> None:
        """Draw one code a slot, note it, and append it to its rows."""
        for group in self.groups.split(len(slots.images)):
            self._advance(slots, *group)

    def _advance(self, slots: Slots, first: int, count: int, num_rows: int) -> None:
        """The same for `count` slots from `first`; rows beyond theirs are padding."""
        each, active = slots.rows_each, slice(first, first + count)
        images, num_positions = slots.images[active], slots.codes.shape[1]
        rows = slice(first * each, first * each + num_rows)
        index = slice(first, first + num_rows // each)
        positions, cache_positions = slots.positions[index], slots.cache_positions[rows]
        if self.step.pads_products_alone:
            cache_positions = cache_positions[: count * each]
        num_visible = slots.cache.num_visible(max(image.longest for image in images))
        slots.cache.set_positions(rows.start, cache_positions, num_visible)
        kept = slots.kept[index] if any(image.keeps for image in images) else None
        semantics_kept = all(image.keeps_semantics for image in images)
        hidden, uniform = slots.hidden[rows], slots.uniform[index]
        codes = self.choice(hidden, uniform, positions, kept, semantics_kept)
        slots.codes[index].scatter_(1, positions.unsqueeze(-1), codes.unsqueeze(-1))
        if any(image.done + 1 < num_positions for image in images):
            each_row = self.choice.each_row
            embeddings = self.embed(each_row(codes), each_row(positions))
            slots.hidden[rows] = self.step(embeddings, cache_positions, slots.cache)
        slots.positions[active] += 1
        slots.cache_positions[first * each : (first + count) * each] += 1
