"""Whether a language model is one that this project can extend and train in packed sequences."""

import torch

from mllm.model.modeling_unified import UnifiedModel
from mllm.model.segments import Segments
from runtime.errors import UserError

LENGTH = 8  # tokens of each document that is tried
TOLERANCE = 1e-3  # of the largest hidden number; a leak from another document is about as large


@torch.no_grad()
def refuse_other_architecture(model: UnifiedModel) -> None:
    """Try the language model on two documents in one sequence.

    It must take embeddings and positions, and attend through transformers' interface: only then
    does no document see another. Recurrent and encoder models, and those with an attention of their
    own, don't.

    Raises:
        UserError: if it cannot be run so, or a document's hidden states are other ones than alone.
    """
    kind = model.config.text_config.model_type
    vocab_size = model.config.text_config.vocab_size
    documents = torch.arange(2 * LENGTH).remainder(vocab_size).view(2, LENGTH)
    positions = torch.arange(LENGTH)
    was_training = model.training
    model.eval()
    try:
        assert len(model.language_model.get_decoder().layers)
        alone = model(documents, position_ids=positions.expand(2, -1)).last_hidden_state
        packed = model(
            documents.view(1, -1),
            position_ids=positions.repeat(2)[None],
            segments=Segments([[LENGTH, LENGTH]], [False], None),
        ).last_hidden_state
        difference = (packed.view_as(alone) - alone).abs().max()
        if not difference <= TOLERANCE * alone.abs().max():
            raise ValueError("a document sees another")
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        raise UserError(
            f"a language model of the architecture {kind!r} cannot be trained in packed sequences; "
            f"choose a decoder such as Qwen2, Qwen3, Llama, SmolLM2, Gemma or Mistral"
        ) from error
    finally:
        model.train(was_training)


@torch.no_grad()
def refuse_other_logits(model: UnifiedModel) -> None:
    """Some language models do more to their logits than the head: that would be lost.

    Raises:
        UserError: if the extended model's text logits are not the language model's own.
    """
    token_ids = torch.arange(min(16, model.config.text_config.vocab_size)).unsqueeze(0)
    model.eval()
    if not torch.equal(model(token_ids).logits, model.language_model(token_ids).logits):
        raise UserError(
            f"a {model.config.text_config.model_type!r} model changes its logits after the head "
            f"(a cap or a scale), which the unified model does not; choose an llm without it, such "
            f"as Qwen2, Llama, Mistral or Gemma 3"
        )
