"""The SemHiTok image tokenizer: images to hierarchical codes and back (arXiv 2503.06764).

    pixels ─ frozen vision encoder ─ semantic encoder ─► nearest of K semantic codes         ─► i
    pixels ─ pixel encoder ───────────────────────────► nearest of the M codes of group i    ─► j
    image code  h = i · M + j,  decoder input  [semantic code vector ; pixel code vector]

Shapes: B batch, H·W pixels, N = (H/p)·(W/p) image positions row-major, D width, K semantic codes,
M pixel codes in each sub-codebook.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init

from runtime.errors import UserError, says
from runtime.files import write_text
from tokenizer.model.codebook import GroupedCodebook, JoinedCodebook
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.image_processing_semhitok import image_processor
from tokenizer.model.layers import GridPositions, Trunk, feature_head
from tokenizer.model.model_card import model_card
from tokenizer.model.patch_features import patch_features
from tokenizer.model.pixel_networks import code_decoder, pixel_encoder


class ImageCodes(NamedTuple):
    """The two code planes of a batch of images.

    Attributes:
        semantic: (B, N) int64 in [0, K).
        pixel: (B, N) int64 in [0, M), local to the semantic code.
        num_pixel_codes: M.
    """

    semantic: Tensor
    pixel: Tensor
    num_pixel_codes: int

    @property
    def flat(self) -> Tensor:
        """(B, N) int64 image codes `semantic * M + pixel`, in [0, K·M)."""
        return self.semantic * self.num_pixel_codes + self.pixel

    @classmethod
    def from_flat(cls, image_codes: Tensor, num_pixel_codes: int) -> "ImageCodes":
        """Split flat image codes; the inverse of `flat`."""
        return cls(image_codes // num_pixel_codes, image_codes % num_pixel_codes, num_pixel_codes)


class SemHiTokModel(PreTrainedModel):
    """Image tokenizer whose codes carry meaning and pixels.

    Attributes:
        teacher: frozen vision encoder.
        semantic_encoder, semantic_codebook, semantic_decoder: trained by the `semantic` phase.
        pixel_encoder, pixel_sub_codebooks, decoder: trained by the `pixel` phase.
        enhance_decoder: trained by the `decoder` phase.
    """

    config_class = SemHiTokConfig
    config: SemHiTokConfig
    base_model_prefix = "semhitok"
    main_input_name = "images"
    input_modalities = ("image",)
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: SemHiTokConfig):
        super().__init__(config)
        teacher_width = config.teacher_config.hidden_size
        self.teacher = AutoModel.from_config(
            config.teacher_config, dtype=getattr(torch, config.teacher_dtype)
        )
        self.teacher.requires_grad_(False)
        for name, value in self._teacher_normalisation().items():
            self.register_buffer(name, value, persistent=False)

        width, code_dim = config.semantic_hidden_size, config.semantic_code_dim
        sizes = {"num_heads": config.semantic_attention_heads, "grid_size": config.grid_size}
        trunk = Trunk(teacher_width, width, config.semantic_encoder_layers, **sizes)
        head = feature_head(width, width, code_dim)
        self.semantic_encoder = nn.ModuleDict({"trunk": trunk, "head": head})
        self.semantic_codebook = GroupedCodebook(
            1, config.num_semantic_codes, code_dim, config.semantic_metric
        )
        trunk = Trunk(code_dim, width, config.semantic_decoder_layers, **sizes)
        head = feature_head(width, width, teacher_width)
        self.semantic_decoder = nn.ModuleDict({"trunk": trunk, "head": head})
        self.pixel_encoder = pixel_encoder(config)
        self.pixel_sub_codebooks = GroupedCodebook(
            1 if config.code_structure == "independent" else config.num_semantic_codes,
            config.num_pixel_codes,
            config.pixel_code_dim,
            config.pixel_metric,
        )
        self.decoder = code_decoder(config, "decoder")
        self.enhance_decoder = code_decoder(config, "enhance_decoder")
        for part in config.absent_parts:
            delattr(self, part)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, GridPositions):
            init.normal_(module.table, std=self.config.initializer_range)
        elif isinstance(module, GroupedCodebook):
            init.normal_(module.codes)
        elif isinstance(module, SemHiTokModel):
            for name, value in self._teacher_normalisation().items():
                init.copy_(getattr(module, name), value)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            # Scaled by fan-in, so that the small and the paper-size model start alike.
            init.xavier_uniform_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def _teacher_normalisation(self) -> dict[str, Tensor]:
        """One affine map from [-1, 1] to the teacher's own normalisation, as two buffers."""
        mean, std = torch.tensor(self.config.teacher_mean), torch.tensor(self.config.teacher_std)
        scale, shift = 0.5 / std, (0.5 - mean) / std
        return {"teacher_scale": scale.view(1, 3, 1, 1), "teacher_shift": shift.view(1, 3, 1, 1)}

    @property
    def dtype(self) -> torch.dtype:
        """That of all but the teacher, which comes first and has its own (`teacher_dtype`)."""
        return self.semantic_codebook.codes.dtype

    def train(self, mode: bool = True) -> "SemHiTokModel":
        """Switch dropout on or off; the frozen teacher's stays off, or codes would be noisy."""
        super().train(mode)
        if "teacher" not in self.config.absent_parts:
            self.teacher.eval()
        return self

    def save_pretrained(
        self, save_directory: str | Path, is_main_process: bool = True, **options: Any
    ) -> None:
        """Write weights, config, image processor and model card; see transformers' own."""
        super().save_pretrained(save_directory, is_main_process=is_main_process, **options)
        if is_main_process:
            image_processor(self.config).save_pretrained(save_directory)
            write_text(Path(save_directory) / "README.md", model_card(self))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        max_shard_size: str = "5GB",
        **commit: Any,
    ) -> str:
        """Upload what `save_pretrained` writes; transformers' own would replace the model card.

        Args:
            repo_id: NAME or OWNER/NAME; created where it is missing.
            private, token, max_shard_size: as of transformers' own.
            commit: options of `HfApi.upload_folder`, such as `revision`.

        Returns:
            The address of the commit.

        Raises:
            UserError: if the hub cannot be reached or refuses.
        """
        api = HfApi(token=token)
        try:
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            with TemporaryDirectory() as folder:
                self.save_pretrained(folder, max_shard_size=max_shard_size)
                commit = {"commit_message": "Upload SemHiTok tokenizer"} | commit
                uploaded = api.upload_folder(repo_id=repo_id, folder_path=folder, **commit)
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise UserError(
                f"cannot push to {repo_id!r}; log in with `hf auth login`, and name a repository "
                f"that you may write ({says(error)})"
            ) from error
        return str(uploaded)

    def grid(self, images: Tensor) -> tuple[int, int]:
        """Rows and columns of image positions of (B, 3, H, W) images."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"Images must be (B, 3, H, W) floats in [-1, 1], not {tuple(images.shape)} of "
                f"{images.dtype}: an AutoImageProcessor of the model's folder makes such."
            )
        height, width = images.shape[-2:]
        patch_size = self.config.patch_size
        if height % patch_size or width % patch_size or not height or not width:
            raise ValueError(
                f"Images of {height}×{width} pixels cannot be cut into patches of {patch_size}: "
                f"resize or crop both sides to a multiple of {patch_size}."
            )
        return height // patch_size, width // patch_size

    @torch.no_grad()
    def teacher_features(self, images: Tensor) -> Tensor:
        """Patch features (B, N, D) of the frozen teacher for (B, 3, H, W) images in [-1, 1]."""
        self.grid(images)  # refuses what cannot be cut into patches
        pixel_values = images * self.teacher_scale + self.teacher_shift
        return patch_features(self.teacher, pixel_values, self.config.teacher_layer)

    def semantic_vectors(self, features: Tensor, grid: tuple[int, int]) -> Tensor:
        """Teacher features (B, N, D) → unquantised semantic vectors (B, N, D_semantic)."""
        return self.semantic_encoder["head"](self.semantic_encoder["trunk"](features, grid))

    def semantic_features(self, code_vectors: Tensor, grid: tuple[int, int]) -> Tensor:
        """Semantic code vectors (B, N, D_semantic) → the teacher features they stand for."""
        return self.semantic_decoder["head"](self.semantic_decoder["trunk"](code_vectors, grid))

    @torch.no_grad()
    def semantic_codes(self, images: Tensor) -> Tensor:
        """(B, N) int64 semantic codes of (B, 3, H, W) images in [-1, 1]."""
        vectors = self.semantic_vectors(self.teacher_features(images), self.grid(images))
        return self.semantic_codebook.assign(vectors)

    def pixel_vectors(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [-1, 1] → unquantised pixel vectors (B, N, D_pixel)."""
        return self.pixel_encoder(images, self.grid(images))

    def pixel_groups(self, semantic_codes: Tensor) -> Tensor:
        """The sub-codebook of each semantic code; where there is only one, the 0th."""
        if self.config.code_structure == "independent":
            return torch.zeros_like(semantic_codes)
        return semantic_codes

    @torch.no_grad()
    def pixel_codes(self, images: Tensor, semantic_codes: Tensor) -> Tensor:
        """(B, N) int64 pixel codes, each of the sub-codebook of its position's semantic code."""
        groups = self.pixel_groups(semantic_codes)
        return self.pixel_sub_codebooks.assign(self.pixel_vectors(images), groups)

    @torch.no_grad()
    def encode(self, images: Tensor) -> ImageCodes:
        """Quantise images into semantic and pixel codes.

        Args:
            images: (B, 3, H, W) float in [-1, 1]; H and W divisible by `patch_size`.

        Returns:
            `semantic` (B, N) int64 in [0, K) and `pixel` (B, N) int64 in [0, M), row-major.

        Raises:
            ValueError: if the resolution is not divisible by `patch_size`, or the model is the
                decoder half.
        """
        if self.config.half == "decoder":
            raise ValueError(
                "This is the decoder half of a tokenizer, which cannot encode images: load the "
                "whole one, or its encoder half."
            )
        self.grid(images)  # refuses what are no images
        images = images.to(self.dtype)
        if self.config.code_structure == "flat":
            return self._encode_flat(images)
        semantic_codes = self.semantic_codes(images)
        pixel_codes = self.pixel_codes(images, semantic_codes)
        return ImageCodes(semantic_codes, pixel_codes, self.config.num_pixel_codes)

    def _encode_flat(self, images: Tensor) -> ImageCodes:
        """The nearest code by both vectors together; there is no second level, so j is 0."""
        semantic = self.semantic_vectors(self.teacher_features(images), self.grid(images))
        vectors = torch.cat([semantic, self.pixel_vectors(images)], dim=-1)
        codes = JoinedCodebook(self.semantic_codebook, self.pixel_sub_codebooks).assign(vectors)
        return ImageCodes(codes, torch.zeros_like(codes), self.config.num_pixel_codes)

    def code_vectors(self, codes: ImageCodes) -> Tensor:
        """(B, N, D_semantic + D_pixel) joint code vectors, the decoders' input."""
        semantic = self.semantic_codebook.lookup(codes.semantic)
        pixel = self.pixel_sub_codebooks.lookup(codes.pixel, self.pixel_groups(codes.semantic))
        return torch.cat([semantic, pixel], dim=-1)

    @torch.no_grad()
    def decode(self, codes: ImageCodes, grid: tuple[int, int] | None = None) -> Tensor:
        """Turn codes back into images.

        Args:
            codes: as from `encode`.
            grid: rows and columns of positions; a square by default.

        Returns:
            (B, 3, rows·p, columns·p) float in [-1, 1].

        Raises:
            ValueError: if the codes do not fill the grid, or the model is the encoder half.
        """
        if self.config.half == "encoder":
            raise ValueError(
                "This is the encoder half of a tokenizer, which cannot decode codes: load the "
                "whole one, or its decoder half."
            )
        num_positions = codes.semantic.shape[1]
        if grid is None:
            side = int(num_positions**0.5)
            grid = (side, side)
        if grid[0] * grid[1] != num_positions:
            raise ValueError(
                f"{num_positions} codes do not fill a grid of {grid[0]}×{grid[1]}: "
                f"pass `grid=(rows, columns)` of the image."
            )
        decoder = self.enhance_decoder if self.config.use_enhance_decoder else self.decoder
        vectors = self.code_vectors(codes).to(next(decoder.parameters()).dtype)
        return decoder(vectors, grid).clamp(-1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Reconstruct (B, 3, H, W) images in [-1, 1] through their codes."""
        return self.decode(self.encode(images), self.grid(images))


AutoModel.register(SemHiTokConfig, SemHiTokModel)
