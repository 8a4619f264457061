import sys
from types import ModuleType
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    Dinov2Config,
    Dinov2Model,
)

from eval.measures.feature_networks import load_feature_network
from runtime.errors import UserError

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("networks")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**TINY, intermediate_size=16, image_size=32, patch_size=8)
    text = CLIPTextConfig(**TINY, intermediate_size=16, vocab_size=50)
    CLIPModel(
        CLIPConfig(vision_config=vision.to_dict(), text_config=text.to_dict(), projection_dim=6)
    ).save_pretrained(root / "clip")
    Dinov2Model(Dinov2Config(**TINY, image_size=28, patch_size=14)).save_pretrained(root / "dino")
    return root


def images():
    return torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize(("name", "dim"), [("clip", 6), ("dino", 16)])
def test_a_transformers_network_from_a_folder(folders, name, dim):
    network = load_feature_network(str(folders / name))
    assert network.dim == dim and network(images()).shape == (2, dim)
    assert name in network.label and network.label in network.frechet_name
    assert "FID" not in network.frechet_name


def test_efficientnet_is_offline_and_names_its_distance():
    network = load_feature_network("efficientnet-lite0")
    assert network(images()).shape == (2, 1280)
    assert network.frechet_name == "Fréchet distance (EfficientNet-Lite0)"
    assert network.kid_name == "KID (EfficientNet-Lite0)"


def test_other_weights_are_another_network(folders, tmp_path):
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**TINY, image_size=28, patch_size=14)).save_pretrained(
        tmp_path / "dino"
    )
    one, other = (load_feature_network(str(root / "dino")) for root in (folders, tmp_path))
    assert one.label == other.label and one.fingerprint != other.fingerprint


def test_features_are_those_of_the_saved_file():
    network = load_feature_network("efficientnet-lite0")
    exact = images()
    saved = ((exact + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(network(exact), network(saved))


def fake_torch_fidelity(monkeypatch, network):
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = network
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_only_inception_gives_a_fid(monkeypatch):
    class Inception(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path=None):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, levels):
            assert levels.dtype == torch.uint8
            return (levels.float().mean((2, 3)).repeat(1, 683)[:, :2048],)

    fake_torch_fidelity(monkeypatch, Inception)
    network = load_feature_network("inception")
    assert network.frechet_name == "FID" and network(images()).shape == (2, 2048)


def test_clean_fids_resize_goes_before_inception_and_is_named(monkeypatch):
    """As its `make_resizer`: each channel as floats by Pillow's bicubic filter, then clipped."""
    seen = []

    class Inception(torch.nn.Module):
        def __init__(self, name, features, feature_extractor_weights_path=None):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))
            self.file = feature_extractor_weights_path

        def forward(self, levels):
            seen.append(levels)
            return (levels.float().mean((2, 3)).repeat(1, 683)[:, :2048],)

    fake_torch_fidelity(monkeypatch, Inception)
    network = load_feature_network("inception-clean:weights.pth")
    assert network.frechet_name == "FID (clean-fid's resize)"
    assert network.kid_name == "KID (Inception-v3, clean-fid's resize)"
    for side in (40, 500):
        image = Image.effect_noise((side, side), 90).convert("RGB")
        pixels = np.asarray(image, dtype=np.float32)
        channels = [
            np.asarray(Image.fromarray(pixels[..., i]).resize((299, 299), Image.Resampling.BICUBIC))
            for i in range(3)
        ]
        expected = torch.from_numpy(np.stack(channels).clip(0, 255))
        network(torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1)
        assert seen[-1].shape == (1, 3, 299, 299)
        assert (seen[-1][0].float() - expected).abs().max() <= 0.51  # it is rounded to 8 bits


def test_weights_that_cannot_be_downloaded(monkeypatch):
    def unreachable(*args, **kwargs):
        raise URLError("Name or service not known")

    fake_torch_fidelity(monkeypatch, unreachable)
    with pytest.raises(UserError, match=r"cannot be loaded.*inception:FILE"):
        load_feature_network("inception")
    with pytest.raises(UserError, match="facebook/dinov2-small"):
        load_feature_network("facebook/dinov2-small")


def test_inception_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(UserError, match="torch-fidelity"):
        load_feature_network("inception")


def test_a_folder_that_holds_no_network(tmp_path):
    with pytest.raises(UserError, match="No vision network"):
        load_feature_network(str(tmp_path))
