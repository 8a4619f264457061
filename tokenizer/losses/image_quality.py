"""PSNR and SSIM of images as they would be saved: 8-bit levels.

Shapes: B batch, H·W pixels.
"""

from torch import Tensor

MAX_PSNR = 100.0  # dB, stands for infinity where a reconstruction is identical to its image


def to_levels(images: Tensor) -> Tensor:
    """Floats in [-1, 1] → the 8-bit levels of a saved PNG, in [0, 255] and still floats."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round()


def image_psnr(levels: Tensor, target: Tensor) -> Tensor:
    """(B,) PSNR of each image in dB, at most `MAX_PSNR`; both (B, 3, H, W) in [0, 255]."""
    from torchmetrics.functional.image import peak_signal_noise_ratio as psnr

    each = psnr(levels, target, data_range=255.0, reduction="none", dim=(1, 2, 3))
    return each.clamp(max=MAX_PSNR)


def image_ssim(levels: Tensor, target: Tensor) -> Tensor:
    """(B,) SSIM, Gaussian window 11 wide with sigma 1.5; both (B, 3, H, W) in [0, 255]."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    ssim = structural_similarity_index_measure(levels, target, data_range=255.0, reduction="none")
    assert isinstance(ssim, Tensor)  # a tuple only where the full map is asked for
    return ssim
