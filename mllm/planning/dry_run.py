"""A run without weights, data or a GPU: what would train, in which groups, with which shapes.

    semhitok train mllm --config configs/mllm/qwen2.5-7b-instruct/mllm.yaml phase=sft dry_run=true

The model is built on the meta device, and the decoder runs there over one micro-batch.
"""

from pathlib import Path

import torch

from mllm.model.modeling_unified import UnifiedModel
from mllm.phase.deepspeed_config import zero_of
from mllm.phase.settings import MLLMPhaseConfig
from mllm.planning.model import optimizer_groups, parts, planned_model
from mllm.planning.plan import read_init
from mllm.planning.text import print_groups, print_parts
from runtime.errors import UserError


def dry_run(config: MLLMPhaseConfig, config_file: Path) -> None:
    """Print what a run would do.

    Args:
        config: of the phase.
        config_file: which it was read from; `init_mllm.yaml` beside it says what the model is while
            that is not made.

    Raises:
        UserError: if the model cannot be built, a document could never fit, or the DeepSpeed file
            is not there.
    """
    distribution = _distribution(config)
    model = planned_model(config, read_init(config_file))
    groups = optimizer_groups(model, config)
    text, image = model.config.text_config, model.config.image_tokenizer_config
    num_positions = model.config.num_image_positions
    if config.row_length < num_positions + 4:
        raise UserError(
            f"row_length {config.row_length} holds no image of {num_positions} tokens with a "
            f"prompt: raise it."
        )
    print(f"phase: {config.phase or 'the only one'}")
    for source in config.all_sources:
        print(f"source: {source.data}, codes {source.codes or 'none'}, weight {source.weight:g}")
    shares = {name: share for name, share in vars(config.mixture.shares).items() if share}
    print("shares: " + ", ".join(f"{name} {share:g}" for name, share in shares.items()))
    learning = {p: config.learning_rate * rate for p, rate in vars(config.rates).items() if rate}
    print_parts(parts(model), learning, config.lora)
    print_groups(groups)
    micro = config.micro_batch_size or 1
    precision = "bfloat16" if config.bf16 else "float32"
    print(
        f"a step: {config.global_batch_size} rows of {config.row_length:,} tokens, {precision}, "
        f"attention {config.attention}, {'packed' if config.packing else 'a document a row'}"
    )
    print(f"distribution: {distribution}")
    print("shapes of a micro-batch")
    for name, shape in _shapes(model, micro, config.row_length).items():
        print(f"  {name:28}{tuple(shape)!s:>24}")
    print(f"  {'text vocabulary':28}{text.vocab_size:>24,}")
    print(f"  {'image codes':28}{image.num_semantic_codes * image.num_pixel_codes:>24,}")


def _distribution(config: MLLMPhaseConfig) -> str:
    if config.deepspeed is None:
        return "plain data parallel"
    zero = zero_of(config)
    host = "" if zero.offload == "none" else f", optimiser on the {zero.offload}"
    return f"ZeRO-{zero.stage}{host} ({config.deepspeed})"


@torch.no_grad()
def _shapes(model: UnifiedModel, micro_batch_size: int, row_length: int) -> dict[str, torch.Size]:
    """Shapes that the decoder and the heads make of one micro-batch, on the meta device."""
    width = model.config.text_config.hidden_size
    embedded = torch.empty(micro_batch_size, row_length, width, device="meta")
    hidden = model.language_model.get_decoder()(
        inputs_embeds=embedded,
        attention_mask=torch.ones(1, 1, row_length, row_length, dtype=torch.bool, device="meta"),
        position_ids=torch.empty(1, row_length, dtype=torch.long, device="meta"),
        use_cache=False,
    ).last_hidden_state
    one = hidden[0, :1]
    text = model.get_output_embeddings()(one)
    codes = torch.zeros(1, dtype=torch.long, device="meta")
    return {
        "embedded rows": embedded.shape,
        "hidden states": hidden.shape,
        "text scores of a label": text.shape,
        "semantic scores of a label": model.image_head.semantic_scores(one).shape,
        "pixel scores of a label": model.image_head.pixel_scores(
            one, codes, model.image_tokenizer
        ).shape,
    }
