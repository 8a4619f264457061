"""Files to pictures to tensors and back: safe decoding, crops and the exact transforms.

What becomes of the odd kinds of image, so that one file always gives the same pixels:

- EXIF orientation is applied; unreadable EXIF counts as none.
- Animations give their first frame.
- Palettes are looked up; alpha is laid over white.
- CMYK is converted by Pillow's plain formula. Colour profiles are ignored.
- 16-bit grey is scaled so that 65535 becomes 255; 16-bit colour keeps its high byte.
- Other modes, and formats not in `FORMATS`, are refused.
- A file cut short is refused, unless every pixel was there before the cut.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import random
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from runtime.errors import UserError
from runtime.files import fingerprint, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")
"""Read by content and never by file name. Formats with interpreters behind them (EPS) stay out."""
MAX_PIXELS = 25_000_000
"""Largest declared width x height. No such image takes more than 300 MB: at most twelve bytes a
pixel, of a progressive CMYK JPEG."""
MAX_PIXELS_OF = {"WEBP": 16_000_000}
"""Lower limits of formats whose decoders hold more: sixteen bytes a pixel of a WebP."""
MAX_FILE_SIZE = 64 * 1024 * 1024
"""Largest encoded file, in bytes."""
MAX_ZOOM = 1.1
"""LlamaGen cuts its ten crops from an image 1.1 times the size. There is no mirroring: a caption or
a question may speak of left and right."""
MAX_ASPECT = 50
"""Longer side over the shorter one, up to which a picture is scaled as ADM scales it."""
PIXELS_OF_STRIP = 1_000_000
"""Pixels of a large image that are copied at a time."""
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")
"""All that decide the pixels, and which way up they are."""


class ImageError(UserError):
    """An image that cannot or must not be decoded; one sentence that names it."""


class WholeImagesOnly:
    """A context in which Pillow refuses a file cut short, whatever the process told it.

    Other libraries switch Pillow to filling the rest with grey for the whole process (lmms-eval
    does, as it is imported). Their choice is theirs again when the last thread has left.
    """

    _lock = threading.Lock()
    _inside = 0
    _chosen = False

    def __enter__(self) -> None:
        with self._lock:
            if not WholeImagesOnly._inside:
                WholeImagesOnly._chosen = ImageFile.LOAD_TRUNCATED_IMAGES
                ImageFile.LOAD_TRUNCATED_IMAGES = False
            WholeImagesOnly._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            WholeImagesOnly._inside -= 1
            if not WholeImagesOnly._inside:
                ImageFile.LOAD_TRUNCATED_IMAGES = WholeImagesOnly._chosen


def open_image(source: bytes | Path, name: str | None = None) -> Image.Image:
    """Decode an image, given as bytes or by its path, after checking that it is safe to.

    Returns an upright picture of mode RGB. `name` is what to call it in an error, else the path.

    Raises:
        ImageError: if the file is missing, too large, damaged or of a kind not accepted.
    """
    label = name or (str(source) if isinstance(source, Path) else "the image")
    data = _read_file(source, label) if isinstance(source, Path) else source
    _check_size(len(data), label)
    if not data:
        raise ImageError(f"{label} is an empty file")
    # Pillow lets a dozen kinds of exception out of its parsers (struct, zlib, Index, Key ...);
    # whatever a hostile file provokes, the answer is the same.
    try:
        try:
            return _decode(data, label)
        except Exception:
            # What stands beside the pixels may be damaged, or larger than Pillow reads.
            if (pixels_alone := _without_side_chunks(data)) is not None:
                with contextlib.suppress(Exception):
                    return _decode(pixels_alone, label)
            raise
    except ImageError:
        raise
    except UnidentifiedImageError:
        kind = f"image of a known format ({', '.join(FORMATS)})"
        raise ImageError(f"{label} is no {kind}, or its header is damaged") from None
    except Image.DecompressionBombError:
        limit = f"the limit of {MAX_PIXELS:,}"
        raise ImageError(f"{label} declares far more pixels than {limit}") from None
    except Exception as error:
        raise ImageError(f"{label} is damaged and cannot be decoded ({error})") from error


def upright_rgb(image: Image.Image) -> Image.Image:
    """What `open_image` makes of a picture once it is decoded; the given one stays as it is."""
    return _to_rgb(_upright(image.copy()))


def to_tensor(image: Image.Image) -> Tensor:
    """Return an RGB picture as a (3, H, W) float32 tensor in [-1, 1]."""
    import torch

    return scale_pixels(torch.from_numpy(np.array(image.convert("RGB"), dtype=np.uint8)))


def scale_pixels(pixels: Tensor) -> Tensor:
    """Return (..., H, W, 3) uint8 pixels as (..., 3, H, W) float32 in [-1, 1]."""
    import torch

    return pixels.movedim(-1, -3).to(torch.float32).div_(127.5).sub_(1.0).contiguous()


def to_pil(tensor: Tensor) -> Image.Image:
    """The exact inverse of `to_tensor`: a picture of (3, H, W) floats, clamped to [-1, 1]."""
    import torch

    if tensor.ndim != 3 or tensor.shape[0] != 3:
        raise ValueError(f"to_pil takes a (3, H, W) tensor, not {tuple(tensor.shape)}")
    scaled = tensor.detach().to("cpu", torch.float32).add(1.0).mul(127.5).round().clamp(0, 255)
    return Image.fromarray(scaled.to(torch.uint8).permute(1, 2, 0).contiguous().numpy())


def write_png(image: Image.Image, path: Path) -> Path:
    """Write a picture, whole or not at all."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return write_bytes(path, buffer.getvalue())


def resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` pixels, at least 1, then cut the central square.

    Bicubic; Pillow widens the filter when it shrinks, so nothing aliases. Only what remains is
    scaled, which takes a quarter less of a 4:3 picture; against scaling it whole and then cutting,
    about one value in 10,000 of a photograph is rounded to its neighbour. A picture that already
    is `size` x `size` comes back as it is.
    """
    if image.size == (size, size):
        return image
    if min(image.size) == size:
        return _cut_middle(image, size, size)
    # What the whole picture would be scaled to; max() guards the longer side against rounding.
    whole = [max(size, round(size * side / min(image.size))) for side in image.size]
    # The square in it, as a box in the picture: products before quotients, so that edges are exact.
    starts = [(length - size) // 2 for length in whole]
    left, top = (s * side / w for s, side, w in zip(starts, image.size, whole, strict=True))
    right, bottom = (
        (s + size) * side / w for s, side, w in zip(starts, image.size, whole, strict=True)
    )
    return image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, right, bottom))


def _cut_middle(image: Image.Image, width: int, height: int) -> Image.Image:
    """The middle; where pixels are left over on both sides, an odd one stays at the end."""
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def numbered_crop(image: Image.Image, size: int, number: int, name: str) -> Image.Image:
    """Cut one of an RGB image's crops, the same on every machine and in every run.

    Codes are extracted once and trained on for many epochs; with several crops of each image the
    model need not see the same pixels each time (LlamaGen extracts ten). Crop 0 is
    `resize_and_crop`'s, the centre, which every model sees when it is asked. The others are squares
    whose side is the image's shorter one, divided by 1 … `MAX_ZOOM`, anywhere in the image; its
    name and the number alone decide where.
    """
    if number == 0:
        return resize_and_crop(image, size)
    rng = random.Random(f"{name} {number}")
    side = min(image.size) / rng.uniform(1.0, MAX_ZOOM)
    left, top = (rng.uniform(0.0, length - side) for length in image.size)
    # Rounding must not carry the box over the edge, which Pillow refuses.
    box = (left, top, min(left + side, image.width), min(top + side, image.height))
    return image.resize((size, size), Image.Resampling.BICUBIC, box=box)


def centre_crop_adm(image: Image.Image, size: int) -> Image.Image:
    """The centre crop of ADM (Dhariwal and Nichol, 2021), which its FID references are made with.

    `center_crop_arr` of guided-diffusion's image_datasets.py: halves by averaging 2 x 2 pixels
    while the shorter side is at least twice `size`, scales the rest of the way bicubically, and
    cuts the middle.
    """
    if max(image.size) > MAX_ASPECT * min(image.size):  # else a thread is scaled to a huge band
        side = MAX_ASPECT * min(image.size)
        image = _cut_middle(image, min(side, image.width), min(side, image.height))
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return _cut_middle(image.resize((width, height), Image.Resampling.BICUBIC), size, size)


def pixel_digest(image: Image.Image) -> str:
    """Names a picture by what is seen: the same pixels in another format have the same digest."""
    size = f"{image.width} {image.height} "
    # In strips, since the bytes of all at once are two copies.
    return fingerprint(itertools.chain([size], (part.tobytes() for part in _strips(image))))[:32]


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """The image from top to bottom, about `PIXELS_OF_STRIP` pixels at a time, each a copy."""
    rows = max(1, PIXELS_OF_STRIP // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))


def _read_file(path: Path, label: str) -> bytes:
    """Read a file whose size has been looked at first."""
    try:
        if not path.is_file():
            raise ImageError(f"{label} is not there, or is not a file")
        _check_size(path.stat().st_size, label)
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{label} cannot be read ({error.strerror})") from error


def _check_size(num_bytes: int, label: str) -> None:
    if num_bytes > MAX_FILE_SIZE:
        raise ImageError(f"{label} has {num_bytes:,} bytes; the limit is {MAX_FILE_SIZE:,}")


def _decode(data: bytes, label: str) -> Image.Image:
    with warnings.catch_warnings(), WholeImagesOnly():
        # Pillow's own warning about large images; the limit below speaks for itself.
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            limit = min(MAX_PIXELS, MAX_PIXELS_OF.get(str(image.format), MAX_PIXELS))
            if width * height > limit:
                size = f"{width:,} x {height:,} pixels"
                raise ImageError(f"{label} declares {size}; the limit is {limit:,} in all")
            image.load()
            if image.fp is not None:
                image.fp.close()  # where Pillow's WebP keeps every pixel once more
            return _to_rgb(_upright(image))


def _without_side_chunks(data: bytes) -> bytes | None:
    """A PNG with nothing but its pixels: no profile, no texts; None of what is no PNG."""
    if not data.startswith(PNG_SIGNATURE):
        return None
    parts, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if kind in PNG_CHUNKS:
            parts.append(data[at:end])
        at = end
    return b"".join(parts)


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation, where there is one that can be read."""
    try:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # EXIF is a TIFF of its own, and its parser fails in as many ways
        return image
    if turned:
        for key in ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"):
            image.info.pop(key, None)  # else Pillow writes it again, broken as it may be
        ImageOps.exif_transpose(image, in_place=True)  # else the caller would hold both
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    """Bring any accepted mode to RGB by the rules on top of this file."""
    if image.mode == "RGB" and "transparency" not in image.info:
        # A loaded JPEG holds nothing but its pixels; others may hold a file, or more frames.
        return image if image.format == "JPEG" else image.copy()
    if image.mode.startswith("I"):
        return _by_strips(image, _grey_to_rgb)
    if image.has_transparency_data:
        return _by_strips(image, _over_white)
    if image.mode in ("1", "L", "P", "CMYK", "RGBX", "RGB"):
        return image.convert("RGB")
    raise ValueError(f"its pixel mode {image.mode} is not accepted")


def _by_strips(image: Image.Image, to_rgb: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """What `to_rgb` makes of an image, strip by strip, since each of its steps makes a copy."""
    result = Image.new("RGB", image.size)
    top = 0
    for strip in _strips(image):
        result.paste(to_rgb(strip), (0, top))
        top += strip.height
    return result


def _grey_to_rgb(strip: Image.Image) -> Image.Image:
    """16 or 32 bits of grey, of which 65535 becomes 255."""
    grey = np.asarray(strip).astype(np.int32).clip(0, 65535)
    return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")


def _over_white(strip: Image.Image) -> Image.Image:
    """Lay an image with alpha over white."""
    strip = strip.convert("RGBA")
    white = Image.new("RGBA", strip.size, "white")
    return Image.alpha_composite(white, strip).convert("RGB")
