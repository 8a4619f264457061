"""Tiny models and one tiny prepared folder that the tokenizer's tests share."""

import random

import pytest
import torch
from PIL import Image, ImageDraw
from transformers import SiglipVisionConfig

from data_pipelines.loading.dataset import PreparedDataset
from tests.prepared import prepare_sources
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel

NUM_IMAGES = 24
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 60), "blue": (40, 60, 230)}

MODEL_FIELDS = {
    "image_size": 32,
    "patch_size": 8,
    "num_semantic_codes": 8,
    "num_pixel_codes": 4,
    "semantic_code_dim": 8,
    "pixel_code_dim": 8,
    "semantic_hidden_size": 16,
    "semantic_encoder_layers": 1,
    "semantic_decoder_layers": 1,
    "semantic_attention_heads": 2,
    "pixel_hidden_size": 16,
    "pixel_encoder_layers": 1,
    "pixel_attention_heads": 2,
    "pixel_stem": "conv",
    "decoder_hidden_size": 16,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_head": "conv",
    "enhance_decoder_hidden_size": 16,
    "enhance_decoder_layers": 1,
    "enhance_decoder_attention_heads": 2,
}
VISION_FIELDS = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


@pytest.fixture(scope="session")
def model_fields():
    """Fields of a tiny `SemHiTokConfig`: 32 pixels, 16 positions, K = 8, M = 4."""
    return MODEL_FIELDS


@pytest.fixture(scope="session")
def vision_fields():
    """Fields of the tiny teacher that goes with `model_fields`."""
    return VISION_FIELDS


@pytest.fixture(scope="session")
def tiny_model():
    """Builds a tiny untrained model in eval mode; arguments are fields of its config."""

    def build(seed=0, **fields):
        torch.manual_seed(seed)
        teacher = SiglipVisionConfig(**VISION_FIELDS, vision_use_head=False)
        return SemHiTokModel(SemHiTokConfig(teacher_config=teacher, **MODEL_FIELDS | fields)).eval()

    return build


@pytest.fixture(scope="session")
def random_images():
    """Builds (B, 3, H, W) images in [-1, 1]."""

    def build(num_images=3, height=32, width=32, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return torch.rand(num_images, 3, height, width, generator=generator) * 2 - 1

    return build


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Coloured squares on noise, each with its caption."""
    folder = tmp_path_factory.mktemp("pictures")
    chance = random.Random(0)
    for number in range(NUM_IMAGES):
        colour = list(COLOURS)[number % len(COLOURS)]
        image = Image.effect_noise((32, 32), 40).convert("RGB")
        x, y = chance.randrange(16), chance.randrange(16)
        ImageDraw.Draw(image).rectangle((x, y, x + 14, y + 14), fill=COLOURS[colour])
        image.save(folder / f"{number:02d}.png")
        (folder / f"{number:02d}.txt").write_text(f"a {colour} square\n")
    return folder


@pytest.fixture(scope="session")
def prepared(image_folder, tmp_path_factory):
    """The images above as `semhitok prepare` writes them."""
    return prepare_sources(image_folder, tmp_path_factory.mktemp("prepared") / "data")


@pytest.fixture(scope="session")
def all_images(prepared):
    """Every prepared image, (24, 3, 32, 32) in [-1, 1]."""
    dataset = PreparedDataset(prepared)
    return torch.stack([dataset.image_tensor(i, 32) for i in range(len(dataset))])
