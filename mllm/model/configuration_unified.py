"""Configuration of the unified language model."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from tokenizer.model.configuration_semhitok import SemHiTokConfig


@strict
class UnifiedConfig(PreTrainedConfig):
    r"""A causal language model that reads and writes image codes.

    Args:
        text_config: configuration of any decoder language model of transformers.
        image_tokenizer_config: configuration of the image tokenizer inside.
        begin_of_image_token_id, end_of_image_token_id, image_token_id: ids, in the text vocabulary,
            of the tokens around an image and of the placeholder for one image position.
        image_input: "adapter" (a dual MLP on the frozen code vectors) or "rows" (a trained
            embedding for each of the K·M codes).
        image_head: "hierarchical" (K scores, then M) or "flat" (K·M scores).
        z_loss_weight: weight of (log Z)² of text scores, against drifting logits (UniTok: 5e-5).
        image_positions: "grid" adds learned row and column embeddings to image tokens, "none" is
            the paper's plain sequence.
        image_sampler: fields of `mllm.model.sampler.Sampler`, the default way to draw.
        lora: what `mllm.model.lora.add_lora` was given, for a model with LoRA layers; else None.
    """

    model_type = "semhitok_unified"
    sub_configs: ClassVar[dict] = {
        "text_config": AutoConfig,
        "image_tokenizer_config": SemHiTokConfig,
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    text_config: Any = None
    image_tokenizer_config: Any = None
    begin_of_image_token_id: int = 0
    end_of_image_token_id: int = 0
    image_token_id: int = 0
    image_input: Literal["adapter", "rows"] = "adapter"
    image_head: Literal["hierarchical", "flat"] = "hierarchical"
    z_loss_weight: float = 0.0
    image_positions: Literal["none", "grid"] = "none"
    image_sampler: Any = None
    lora: Any = None
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        if isinstance(self.text_config, dict | None):
            fields = self.text_config or {}
            model_type = fields.get("model_type", "qwen2")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"text_config names the unknown model type {model_type!r}")
            self.text_config = CONFIG_MAPPING[model_type](**fields)
        if isinstance(self.image_tokenizer_config, dict | None):
            self.image_tokenizer_config = SemHiTokConfig(**self.image_tokenizer_config or {})
        self.image_sampler = self.image_sampler or {}
        super().__post_init__(**kwargs)

    @property
    def image_token_offset(self) -> int:
        """First image token id: all text tokens lie below."""
        return self.text_config.vocab_size

    @property
    def context_length(self) -> int | None:
        """Most tokens that the language model reads; None where it has no limit."""
        return getattr(self.text_config, "max_position_embeddings", None)

    @property
    def num_image_positions(self) -> int:
        """N, tokens per image."""
        return self.image_tokenizer_config.num_image_positions


AutoConfig.register(UnifiedConfig.model_type, UnifiedConfig)
