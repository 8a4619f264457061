"""One causal language model over text tokens and image codes.

Shapes: B batch, L sequence, D width, N image positions, K semantic codes, M pixel codes each.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, is_torchvision_available

from mllm.model.adapter import make_adapter
from mllm.model.attention import choose_attention, has_choice
from mllm.model.configuration_unified import UnifiedConfig
from mllm.model.heads import FlatHead, HierarchicalHead
from mllm.model.lora import add_lora, freeze
from mllm.model.loss import weighted_loss
from mllm.model.segments import Segments
from mllm.model.vocabulary import ImageVocabulary
from tokenizer.model.modeling_semhitok import ImageCodes, SemHiTokModel


@dataclass
class UnifiedOutput(ModelOutput):
    """Result of a forward pass.

    Attributes:
        loss: scalar; the weighted sum over labels divided by the number of sequences B.
        logits: (B, L', text vocabulary); empty when labels are given, since the loss needs none.
        past_key_values: the cache.
        text_loss, semantic_loss, pixel_loss: sums of negative log-likelihoods over the labels, in
            nats, and `num_text_labels`, `num_image_labels` to divide them by.
        last_hidden_state: (B, L, D).
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: object | None = None
    text_loss: Tensor | None = None
    semantic_loss: Tensor | None = None
    pixel_loss: Tensor | None = None
    num_text_labels: Tensor | None = None
    num_image_labels: Tensor | None = None
    last_hidden_state: Tensor | None = None


class UnifiedModel(PreTrainedModel):
    """Any Hugging Face causal LM, with image codes as a second vocabulary.

    The public class, which also generates, is `mllm.UnifiedForConditionalGeneration`.

    The language model's own embeddings and head are for text and never resized; image tokens enter
    through the dual-MLP adapter (or embeddings of their own) and leave through an image head. Text
    is predicted only at text positions and image codes only at image positions.
    """

    config_class = UnifiedConfig
    config: UnifiedConfig
    base_model_prefix = ""
    # Transformers' pipelines demand torchvision of a model that names "image" here, though its
    # images are read with Pillow alone; without torchvision it isn't named, so that they work.
    input_modalities = ("image", "text") if is_torchvision_available() else ("text",)
    output_modalities = ("text", "image")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # sequences, not labels, normalise `UnifiedOutput.loss`
    # Codes are those of the exact tokenizer, in whatever dtype the language model is loaded; the
    # teacher inside has a dtype of its own.
    _keep_in_fp32_modules_strict: ClassVar[list[str]] = [
        f"image_tokenizer.{part}"
        for part in ("semantic_encoder", "semantic_codebook", "semantic_decoder", "pixel_encoder",
                     "pixel_sub_codebooks", "decoder", "enhance_decoder")
    ]  # fmt: skip
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_attention_backend = True

    def __init__(self, config: UnifiedConfig):
        super().__init__(config)
        text, image = config.text_config, config.image_tokenizer_config
        self.image_tokenizer = SemHiTokModel(image)
        self.image_tokenizer.requires_grad_(False)
        self.language_model = AutoModelForCausalLM.from_config(text)
        self.adapter = make_adapter(config)
        sizes = text.hidden_size, image.num_semantic_codes, image.num_pixel_codes
        self.image_head: FlatHead | HierarchicalHead
        if config.image_head == "flat":
            self.image_head = FlatHead(*sizes)
        else:
            code_dims = image.semantic_code_dim, image.pixel_code_dim
            self.image_head = HierarchicalHead(*sizes, *code_dims)
        self.post_init()
        if config.lora is not None:
            add_lora(self, config.lora)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, whose loading makes every parameter trainable again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.image_tokenizer.requires_grad_(False)
        if model.config.lora is not None:
            freeze(model)
        return loaded

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, HierarchicalHead):
            init.zeros_(module.pixel_bias)

    @property
    def vocabulary(self) -> ImageVocabulary:
        """Where the image token ids lie."""
        image = self.config.image_tokenizer_config
        return ImageVocabulary(
            self.config.image_token_offset, image.num_semantic_codes, image.num_pixel_codes
        )

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    @torch.no_grad()
    def get_image_tokens(self, pixel_values: Tensor) -> Tensor:
        """(B, 3, H, W) images in [-1, 1] → (B, N) token ids."""
        codes = self.image_tokenizer.encode(pixel_values.to(self.image_tokenizer.dtype))
        return self.vocabulary.token_ids(codes.flat)

    def decode_image_tokens(self, image_tokens: Tensor) -> Tensor:
        """(B, N) image token ids → (B, 3, H, W) images in [-1, 1]."""
        vocabulary = self.vocabulary
        flat = vocabulary.image_codes(image_tokens)
        return self.image_tokenizer.decode(ImageCodes.from_flat(flat, vocabulary.num_pixel_codes))

    def fill_image_tokens(self, input_ids: Tensor, pixel_values: Tensor) -> Tensor:
        """Replace image placeholders by the token ids of the images, in order.

        Raises:
            ValueError: if the number of placeholders is not N for each image.
        """
        image_tokens = self.get_image_tokens(pixel_values)
        is_placeholder = input_ids == self.config.image_token_id
        if (found := int(is_placeholder.sum())) != image_tokens.numel():
            raise ValueError(
                f"{found} image placeholders in the text, but {len(image_tokens)} images need "
                f"{image_tokens.numel()}; let the processor make both"
            )
        return input_ids.masked_scatter(is_placeholder, image_tokens.flatten())

    def embed(self, input_ids: Tensor) -> Tensor:
        """(B, L) token ids, of which consecutive image tokens are one image → (B, L, D)."""
        is_image = self.vocabulary.is_image(input_ids)
        embeddings = self.get_input_embeddings()(input_ids.masked_fill(is_image, 0))
        codes = input_ids[is_image] - self.vocabulary.offset
        # Also called on no codes at all, so that every rank's graph holds the same parameters.
        # Position in the image = distance to the last text token: [t t i i i t i i] → 0 1 2, 0 1.
        index = torch.arange(input_ids.shape[1], device=input_ids.device).expand_as(input_ids)
        last_text = index.masked_fill(is_image, -1).cummax(-1).values
        positions = (index - last_text - 1)[is_image]
        image = self.adapter(codes, self.image_tokenizer, positions).to(embeddings.dtype)
        return embeddings.masked_scatter(is_image.unsqueeze(-1), image)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: object | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        label_weights: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        segments: Segments | None = None,
        **kwargs: Any,
    ) -> UnifiedOutput:
        """Run the language model over text and image tokens.

        Args:
            input_ids: (B, L) token ids; image positions hold image token ids, or placeholders that
                `pixel_values` fill.
            pixel_values: (images, 3, H, W) in [-1, 1].
            attention_mask: (B, L), or (B, 1, L, L) boolean.
            position_ids: (B, L).
            labels: (B, L) token ids to predict, each at its own position; -100 elsewhere.
            label_weights: (B, L) weight of each label; by default 1 / (labels of its sequence).
            logits_to_keep: as in transformers.
            segments: documents of packed sequences, in place of an attention mask; with position
                ids that start again in each.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            if pixel_values is not None:
                input_ids = self.fill_image_tokens(input_ids, pixel_values)
            inputs_embeds = self.embed(input_ids)
        decoder = self.language_model.get_decoder()
        if use_cache is None and (labels is not None or segments is not None):
            use_cache = False  # else every layer's keys and values would be copied into one
        if segments is not None:
            if not has_choice(decoder):
                choose_attention(decoder, "sdpa")
            kwargs["segments"] = segments
            # transformers passes a mask of four dimensions through, and would build an L×L one, for
            # which `segments` has no use, from anything else.
            attention_mask = inputs_embeds.new_zeros(1, 1, 1, 1)
        outputs = decoder(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state
        if labels is not None:
            return self._loss(hidden, labels, label_weights)
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.get_output_embeddings()(hidden[:, keep])
        return UnifiedOutput(
            logits=logits, past_key_values=outputs.past_key_values, last_hidden_state=hidden
        )

    def _loss(self, hidden: Tensor, labels: Tensor, weights: Tensor | None) -> UnifiedOutput:
        """Weighted negative log-likelihood of text and image labels, per sequence."""
        if weights is None:
            num_labels = (labels != -100).sum(-1, keepdim=True).clamp_min(1)
            weights = torch.ones_like(labels, dtype=torch.float32) / num_labels
        hidden, labels, weights = hidden[:, :-1], labels[:, 1:], weights[:, 1:]
        is_image = self.vocabulary.is_image(labels)
        is_text = (labels >= 0) & ~is_image

        head, offset = self.get_output_embeddings(), self.vocabulary.offset
        of_text = hidden[is_text], labels[is_text], weights[is_text]
        text_loss, text = weighted_loss(head, offset, *of_text, self.config.z_loss_weight)
        codes = labels[is_image] - offset
        image_loss, semantic, pixel = self.image_head.losses(
            hidden[is_image], codes, self.image_tokenizer, weights[is_image]
        )
        return UnifiedOutput(
            loss=(text_loss + image_loss) / len(hidden),
            text_loss=text.sum(),
            semantic_loss=semantic.sum(),
            pixel_loss=pixel.sum(),
            num_text_labels=is_text.sum(),
            num_image_labels=is_image.sum(),
        )
