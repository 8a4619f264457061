"""Models of random weights for `benchmarks.generate`, at the sizes of real ones."""

from typing import Any

import torch

from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.model.configuration_unified import UnifiedConfig

# Language model as in configs/quickstart and of SmolLM2-135M; K, M and the width of a code vector.
SIZES: dict[str, dict[str, Any]] = {
    "quickstart": {
        "text": {
            "model_type": "qwen2", "vocab_size": 1024, "hidden_size": 128,
            "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 2,
            "num_key_value_heads": 2, "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
        },
        "codes": (128, 8), "code_dim": 16,
    },
    "smollm2-135m": {
        "text": {
            "model_type": "llama", "vocab_size": 49_152, "hidden_size": 576,
            "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
            "num_key_value_heads": 3, "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
        "codes": (16_384, 12), "code_dim": 32,
    },
}  # fmt: skip


def make_model(
    size: str, head: str, num_positions: int, num_codes: tuple[int, int] | None = None
) -> UnifiedForConditionalGeneration:
    """A unified model of random weights, in eval mode.

    Args:
        size: of `SIZES`.
        head: "flat" or "hierarchical".
        num_positions: N, a square.
        num_codes: K and M; by default those of the size.
    """
    sizes = SIZES[size]
    num_semantic, num_pixel = num_codes or sizes["codes"]
    side = int(num_positions**0.5)
    if side * side != num_positions:
        raise ValueError(f"An image of {num_positions} tokens is no square: 64, 256 and 576 are.")
    branch = {"hidden_size": 128, "attention_heads": 4}
    widths = {f"{p}_{k}": v for p in ("semantic", "pixel", "decoder") for k, v in branch.items()}
    config = UnifiedConfig(
        text_config=dict(sizes["text"]),
        image_tokenizer_config={
            "teacher_config": {
                "model_type": "siglip_vision_model", "hidden_size": 64, "intermediate_size": 64,
                "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8 * side,
                "patch_size": 8, "vision_use_head": False,
            },
            "image_size": 8 * side, "patch_size": 8,
            "num_semantic_codes": num_semantic, "num_pixel_codes": num_pixel,
            "semantic_code_dim": sizes["code_dim"], "pixel_code_dim": sizes["code_dim"],
            "semantic_encoder_layers": 1, "semantic_decoder_layers": 1, "pixel_encoder_layers": 1,
            "decoder_layers": 1, "enhance_decoder_hidden_size": 128, "enhance_decoder_layers": 1,
            "enhance_decoder_attention_heads": 4, **widths,
        },
        image_head=head,
    )  # fmt: skip
    torch.manual_seed(0)
    return UnifiedForConditionalGeneration(config).eval()
