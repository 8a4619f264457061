"""The door: everything that a drawing engine computes with, in the quickest form.

Nothing outside of this room knows of tables, prepacked weights, or which rows share a pass.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from mllm.drawing.cpu.batch_invariance import RowGroups, agreeing_sizes
from mllm.drawing.cpu.compiled_pass import CompiledPass
from mllm.drawing.cpu.eager_pass import EagerPass
from mllm.drawing.cpu.prepacked import PrepackedLinear, is_worthwhile
from mllm.drawing.cpu.tables import make_embedding, make_head
from mllm.drawing.step.choice import CodeChoice
from mllm.drawing.step.decoder_step import LeanStep, OwnStep, is_known
from mllm.model.modeling_unified import UnifiedModel
from tokenizer.model.fused import copy_with_linears


@dataclass
class Parts:
    """What a pass is computed with.

    Attributes:
        step: the language model, a token for each row.
        head: scores of codes, as of `FlatHead` or `HierarchicalHead`.
        adapter: the model's, which embeds image codes.
        embed: (n, D) embeddings of (n,) flat codes at (n,) image positions, from a table if it can.
        prepacked: whether they multiply by prepacked weights.
    """

    step: LeanStep | OwnStep
    head: Any
    adapter: Any
    embed: Callable[[Tensor, Tensor], Tensor]
    prepacked: bool

    def make_pass(
        self, model: UnifiedModel, choice: CodeChoice, batch_size: int, compiled: bool
    ) -> CompiledPass | EagerPass:
        """What draws one code of each of `batch_size` images."""
        if compiled:
            num_rows = batch_size * choice.rows_each
            return CompiledPass(choice, self.embed, self.step, self.prepacked, num_rows)
        sizes = agreeing_sizes(model, self.step, self.head, self.adapter)
        groups = RowGroups(sizes, choice.rows_each, batch_size)
        return EagerPass(choice, self.embed, self.step, groups)


def make_parts(model: UnifiedModel, compiled: bool = False) -> Parts:
    """Read a model's weights, once; `compiled` keeps what a compiler reads of prepacked weights."""
    decoder = model.language_model.get_decoder()
    prepacked = is_worthwhile(model.language_model)
    step: LeanStep | OwnStep
    if is_known(decoder):
        make_product = partial(PrepackedLinear, keep_matrix=compiled) if prepacked else None
        step = LeanStep(decoder, make_product)
    else:
        step = OwnStep(copy_with_linears(decoder, PrepackedLinear) if prepacked else decoder)
    head, adapter = make_head(model, prepacked, compiled), model.adapter
    if prepacked:
        adapter = copy_with_linears(adapter, PrepackedLinear)
    return Parts(step, head, adapter, make_embedding(model, adapter), prepacked)
