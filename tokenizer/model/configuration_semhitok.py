"""Configuration of the SemHiTok image tokenizer."""

from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

MAX_LAYERS = 1000
"""Most layers of one network: more are a slip, and to build them only to count takes for ever."""
_COUNTED = ("_size", "_dim", "_heads", "_layers")


@strict
class SemHiTokConfig(PreTrainedConfig):
    r"""Sizes of a SemHiTok model; the defaults are the paper's 256² model, as far as published.

    Args:
        teacher_config: configuration of the frozen vision encoder (any transformers vision model
            that gives patch features), as an object or a dict with its `model_type`.
        teacher_layer: which hidden state of the teacher is read; -1 is its normalised output.
        teacher_mean, teacher_std: the teacher's own pixel normalisation, in [0, 1] units.
        teacher_dtype: precision of the frozen teacher; "bfloat16" halves its memory, and codes
            differ a little from those of "float32".
        image_size: native height and width in pixels.
        patch_size: pixels per image position, along each side.
        num_semantic_codes: K, codes in the semantic codebook.
        num_pixel_codes: M, codes in each of the K pixel sub-codebooks.
        code_structure: "hierarchical", a sub-codebook of M pixel codes for each semantic code (the
            paper's); or, to compare with it, "independent", one codebook of M pixel codes whatever
            the semantic code is; or "flat", one codebook of K codes, each a semantic and a pixel
            vector chosen together (M is 1). K = 1 leaves the pixel codes alone, M = 1 the semantic.
        semantic_code_dim, pixel_code_dim: widths of the code vectors.
        semantic_metric, pixel_metric: "cosine" or "euclidean", how codes are compared.
        semantic_hidden_size, semantic_encoder_layers, semantic_decoder_layers,
            semantic_attention_heads: the semantic encoder and decoder.
        pixel_encoder_kind: "vit", a transformer on the patch grid; or "conv", a convolutional
            network with attention at the patch grid, whose `layers` are residual blocks at each
            resolution and whose `hidden_size` is its width at the grid.
        pixel_hidden_size, pixel_encoder_layers, pixel_attention_heads, pixel_stem: the pixel
            encoder; the stem of a "vit" is "conv" (overlapping) or "patch" (one linear map).
        decoder_kind, decoder_hidden_size, decoder_layers, decoder_attention_heads, decoder_head:
            the decoder that is trained with the pixel codes; the head of a "vit" is "conv" or
            "patch".
        enhance_decoder_kind, enhance_decoder_hidden_size, enhance_decoder_layers,
            enhance_decoder_attention_heads: the Enhance Decoder, trained last on frozen codes.
        use_enhance_decoder: decode with it; set by the `decoder` phase.
        half: "both"; or the half that an exported folder holds, "encoder" or "decoder".
        code_fingerprint: of the whole tokenizer that a half was taken from; a decoder could not
            compute it.
        training_history: a record of each phase that trained the model.
    """

    model_type = "semhitok"
    sub_configs: ClassVar[dict] = {"teacher_config": AutoConfig}

    teacher_config: Any = None
    teacher_layer: int = -1
    teacher_mean: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    teacher_std: list[float] | tuple[float, ...] = (0.5, 0.5, 0.5)
    teacher_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    image_size: int = 256
    patch_size: int = 16
    num_semantic_codes: int = 16384
    num_pixel_codes: int = 12
    code_structure: Literal["hierarchical", "independent", "flat"] = "hierarchical"
    semantic_code_dim: int = 32
    pixel_code_dim: int = 32
    semantic_metric: Literal["cosine", "euclidean"] = "cosine"
    pixel_metric: Literal["cosine", "euclidean"] = "cosine"
    semantic_hidden_size: int = 1024
    semantic_encoder_layers: int = 3
    semantic_decoder_layers: int = 1
    semantic_attention_heads: int = 16
    pixel_encoder_kind: Literal["vit", "conv"] = "vit"
    pixel_hidden_size: int = 768
    pixel_encoder_layers: int = 12
    pixel_attention_heads: int = 12
    pixel_stem: Literal["conv", "patch"] = "patch"
    decoder_kind: Literal["vit", "conv"] = "vit"
    decoder_hidden_size: int = 768
    decoder_layers: int = 12
    decoder_attention_heads: int = 12
    decoder_head: Literal["conv", "patch"] = "patch"
    enhance_decoder_kind: Literal["vit", "conv"] = "vit"
    enhance_decoder_hidden_size: int = 1024
    enhance_decoder_layers: int = 24
    enhance_decoder_attention_heads: int = 16
    use_enhance_decoder: bool = False
    initializer_range: float = 0.02
    half: Literal["both", "encoder", "decoder"] = "both"
    code_fingerprint: str = ""
    training_history: list[dict[str, Any]] | tuple[dict[str, Any], ...] = ()

    def __post_init__(self, **kwargs):
        if isinstance(self.teacher_config, dict):
            model_type = self.teacher_config.get("model_type", "siglip_vision_model")
            if model_type not in CONFIG_MAPPING:
                raise ValueError(f"teacher_config names the unknown model type {model_type!r}.")
            self.teacher_config = CONFIG_MAPPING[model_type](**self.teacher_config)
        elif self.teacher_config is None:
            self.teacher_config = CONFIG_MAPPING["siglip_vision_model"](
                hidden_size=1024,
                intermediate_size=4096,
                num_hidden_layers=24,
                num_attention_heads=16,
                image_size=256,
                patch_size=16,
                vision_use_head=False,
            )
        for name in vars(self):
            layers = name.endswith("_layers")
            least = 0 if layers else 1
            counted = name.startswith("num_") or name.endswith(_COUNTED)
            if counted and getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}.")
            if layers and getattr(self, name) > MAX_LAYERS:
                raise ValueError(f"{name} must be at most {MAX_LAYERS}, not {getattr(self, name)}.")
        for name in ("teacher_mean", "teacher_std"):
            if len(getattr(self, name)) != 3:
                raise ValueError(f"{name} must have 3 numbers, not {getattr(self, name)}.")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not divisible by patch_size {self.patch_size}."
            )
        if self.code_structure == "flat" and self.num_pixel_codes != 1:
            raise ValueError(
                f"a flat codebook has one pixel vector for each of its codes: set num_pixel_codes "
                f"to 1, not {self.num_pixel_codes}, and num_semantic_codes to the number of all "
                f"codes."
            )
        for part in ("semantic", "pixel"):
            code_dim, width = (
                getattr(self, f"{part}_{size}") for size in ("code_dim", "hidden_size")
            )
            if code_dim > width:
                raise ValueError(
                    f"{part}_code_dim {code_dim} is larger than the encoder's width, "
                    f"{part}_hidden_size {width}: lower the one or raise the other."
                )
        super().__post_init__(**kwargs)

    @property
    def absent_parts(self) -> tuple[str, ...]:
        """Parts of the model that an exported half leaves out."""
        if self.half == "encoder":
            return ("semantic_decoder", "decoder", "enhance_decoder")
        if self.half == "decoder":
            unused = "decoder" if self.use_enhance_decoder else "enhance_decoder"
            return ("teacher", "semantic_encoder", "semantic_decoder", "pixel_encoder", unused)
        return ()

    @property
    def num_image_codes(self) -> int:
        """K·M, the size of the flat image vocabulary."""
        return self.num_semantic_codes * self.num_pixel_codes

    @property
    def grid_size(self) -> int:
        """Image positions along one side at the native size."""
        return self.image_size // self.patch_size

    @property
    def num_image_positions(self) -> int:
        """N, tokens per image at the native size."""
        return self.grid_size**2


AutoConfig.register(SemHiTokConfig.model_type, SemHiTokConfig)
