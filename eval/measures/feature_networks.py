"""The networks whose features tell how far apart two sets of images are.

A distance is worth nothing without its network: the same images are 1 apart by one and 300 by
another. So a score carries its network's name, and only Inception's may be called FID.

Shapes: B batch, H·W pixels, D features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel

from eval.measures.image_source import images_at_once
from eval.measures.pretrained import frozen, load_pretrained, short_name
from runtime.errors import UserError, says
from runtime.files import fingerprint
from tokenizer.losses.efficientnet_lite import load_efficientnet_lite0
from tokenizer.saved.encoders import IMAGENET, normalisation

BATCH = 64  # images that a network looks at together
DEFAULT_SIZE = 224  # pixels; what most vision encoders were trained at
INCEPTION_SIZE = 299
CLEAN = "inception-clean"
"""Inception behind clean-fid's resize, by which MJHQ-30K is measured."""


@dataclass(frozen=True)
class FeatureNetwork:
    """A frozen network that turns an image into a vector."""

    name: str
    """As the user gave it: inception, efficientnet-lite0, a hub name or a folder."""
    label: str
    """What a score is named by."""
    dim: int
    """D."""
    fingerprint: str
    """First hex digits of a SHA-256 over the weights: two networks of one name differ here."""
    extract: Callable[[Tensor], Tensor]
    """(B, 3, H, W) in [-1, 1], any size, to (B, D) float32."""

    @property
    def kind(self) -> str:
        """The name without a file of weights."""
        return self.name.partition(":")[0]

    @property
    def is_clean(self) -> bool:
        """Whether clean-fid's resize goes before, which takes images of any shape uncut."""
        return self.kind == CLEAN

    @property
    def frechet_name(self) -> str:
        """The name of the Fréchet distance by this network; FID is Inception's alone."""
        names = {"inception": "FID", CLEAN: "FID (clean-fid's resize)"}
        return names.get(self.kind, f"Fréchet distance ({self.label})")

    @property
    def kid_name(self) -> str:
        """The name of the kernel distance by this network."""
        return f"KID ({self.label})"

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to (B, D) float32 on the CPU.

        Images are rounded to the 8-bit levels of a saved file first, so that a set measures the
        same from memory and from its PNGs.
        """
        parts = []
        for part in images.split(images_at_once(BATCH, max(images.shape[-2:]))):
            levels = ((part.clamp(-1, 1) + 1) * 127.5).round()
            parts.append(self.extract(levels / 127.5 - 1).float().cpu())
        return torch.cat(parts)


def load_feature_network(name: str) -> FeatureNetwork:
    """A network by name.

    "efficientnet-lite0" (offline, from a package), "inception" or "inception:FILE_OF_WEIGHTS"
    (torch-fidelity's, the one that FID is defined by), "inception-clean" with the same weights
    behind clean-fid's resize, else a transformers vision model (CLIP, DINOv2, SigLIP ...) by hub
    name or folder.

    Raises:
        UserError: if the package or the weights are not there.
    """
    kind, _, weights = name.partition(":")
    if kind in ("inception", CLEAN):
        return _inception(name, weights or None)
    if name == "efficientnet-lite0":
        return _efficientnet(name)
    return _transformers(name)


def _efficientnet(name: str) -> FeatureNetwork:
    network = frozen(load_efficientnet_lite0())

    def extract(images: Tensor) -> Tensor:
        maps = network.features(_resized(images, DEFAULT_SIZE).to(_device(network)))[-1]
        return F.relu6(network._bn1(network._conv_head(maps))).mean((2, 3))

    return FeatureNetwork(name, "EfficientNet-Lite0", 1280, _fingerprint(network), extract)


def _inception(name: str, weights: str | None) -> FeatureNetwork:
    """Inception-v3 as torch-fidelity carries it over from the TensorFlow of the FID paper.

    It resizes by itself, bilinearly and without a filter, as that did. clean-fid scales before,
    with a bicubic filter that widens as it shrinks; then nothing is left to resize. (It has the
    same weights, and does not round the resized image to 8 bits, as is done here.)
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError) as error:  # torchvision may not fit the torch build
        raise UserError(
            'FID needs the package torch-fidelity: run `pip install "semhitok[fid]"`, or name '
            "another network, such as efficientnet-lite0, which gives a Fréchet distance of "
            "another name."
        ) from error
    try:
        network = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=weights
        )
    except (OSError, RuntimeError, ValueError) as error:  # no network, or no such file
        raise UserError(
            f"The Inception weights of FID cannot be loaded ({error}): download "
            "pt_inception-2015-12-05-6726825d.pth from torch-fidelity's releases and give "
            "inception:FILE, or name another network, such as efficientnet-lite0."
        ) from error
    network = frozen(network)
    is_clean = name.partition(":")[0] == CLEAN

    def extract(images: Tensor) -> Tensor:
        images = _resized(images, INCEPTION_SIZE) if is_clean else images
        levels = ((images + 1) * 127.5).round().to(torch.uint8).to(_device(network))
        return network(levels)[0]

    label = "Inception-v3, clean-fid's resize" if is_clean else "Inception-v3"
    return FeatureNetwork(name, label, 2048, _fingerprint(network), extract)


def _transformers(name: str) -> FeatureNetwork:
    """Any vision encoder; of CLIP and its like the projected image embedding."""
    hint = (
        "give a folder written by save_pretrained, a hub name that can be downloaded, inception or "
        "efficientnet-lite0"
    )
    (model,) = load_pretrained("vision network", name, hint, AutoModel)
    network = frozen(model)
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None) or DEFAULT_SIZE
    size = size if isinstance(size, int) else size[0]
    moments = normalisation(name, default=IMAGENET)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in moments)

    def extract(images: Tensor) -> Tensor:
        pixels = ((_resized(images, size) + 1) / 2 - mean) / std
        return _embedding(network, pixels.to(_device(network)))

    try:
        dim = extract(torch.zeros(1, 3, size, size)).shape[1]
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise UserError(
            f"{name!r} is a {type(model).__name__}, which gives no features of an image: name a "
            f"vision network such as CLIP or DINOv2 ({says(error)})."
        ) from error
    label = f"{type(model).__name__.removesuffix('Model')} {short_name(name)}"
    return FeatureNetwork(name, label, dim, _fingerprint(network), extract)


def _embedding(network: Any, pixels: Tensor) -> Tensor:
    """(B, D): CLIP's image embedding, else the pooled output, else the first token."""
    with torch.no_grad():
        if hasattr(network, "get_image_features"):
            found = network.get_image_features(pixel_values=pixels)
            return found if isinstance(found, Tensor) else found.pooler_output
        outputs = network(pixel_values=pixels)
    pooled = getattr(outputs, "pooler_output", None)
    return (outputs.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)


def _resized(images: Tensor, size: int) -> Tensor:
    """(B, 3, size, size), bicubic with a filter that widens when it shrinks."""
    if images.shape[-2:] == (size, size):
        return images
    resized = F.interpolate(images, size=(size, size), mode="bicubic", antialias=True)
    return resized.clamp(-1, 1)


def _device(network: nn.Module) -> torch.device:
    return next(iter(network.state_dict().values())).device


def _fingerprint(network: nn.Module) -> str:
    return fingerprint(
        part
        for key, tensor in sorted(network.state_dict().items())
        for part in (key, tensor.detach().cpu().float().contiguous().numpy().tobytes())
    )[:12]
