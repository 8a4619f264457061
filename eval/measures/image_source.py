"""The images of an evaluation: a prepared data set or any folder, by a crop that has a name.

The same picture cut by two rules gives two scores, so the rule is part of the result. The default
for folders is ADM's, by which the field measures reconstruction on ImageNet's 50,000 validation
images; prepared sets keep the rule that training has.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from torch import Tensor

from data_pipelines.images import centre_crop_adm, open_image, resize_and_crop, to_tensor
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.manifest import MANIFEST_NAME
from data_pipelines.sources.image_folder import list_images
from runtime.errors import UserError
from runtime.files import fingerprint

PIXELS_AT_ONCE = 64 * 256 * 256
"""Most pixels of the images that a network looks at together."""


def images_at_once(batch_size: int, size: int) -> int:
    """The batch size, or what is left of it where the images are large; at least one image."""
    return max(1, min(batch_size, PIXELS_AT_ONCE // size**2))


class Crop(NamedTuple):
    """A way from a picture of any shape to a square one, in words and as a function."""

    about: str
    cut: Callable[[Image.Image, int], Image.Image]
    """(RGB picture, pixels) to the square."""


def stretch(image: Image.Image, size: int) -> Image.Image:
    """Both sides scaled to the size, bicubic."""
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BICUBIC)


CROPS = {
    "shorter-side": Crop(
        "shorter side scaled to the resolution (bicubic), then the central square", resize_and_crop
    ),
    "adm": Crop(
        "ADM: halved by a box filter while twice too large, shorter side scaled to the resolution "
        "(bicubic), then the central square",
        centre_crop_adm,
    ),
    "stretch": Crop("both sides scaled to the resolution (bicubic), nothing cut", stretch),
}


class EvaluationImages:
    """The images of a prepared data set or of a folder, in a fixed order.

    Args:
        path: a folder that `semhitok prepare` wrote, else any folder of images.
        crop: a name of `CROPS`; None is `adm` for a folder and `shorter-side` for a prepared set.
        max_images: take as many, evenly spaced; None takes all.

    Raises:
        UserError: if there is no image.
    """

    def __init__(self, path: Path | str, crop: str | None = None, max_images: int | None = None):
        self.path = Path(path)
        is_url = "://" in str(path)  # of prepared data in an object store
        is_folder = not is_url and self.path.is_dir() and not (self.path / MANIFEST_NAME).is_file()
        self.is_prepared = not is_folder
        self.crop = crop or ("adm" if is_folder else "shorter-side")
        self._images: Any
        if is_folder:
            self._images = list_images(self.path)
        else:
            self._images = PreparedDataset(path, images_only=True)
            if not len(self._images):
                raise UserError(f"{path} has no images, so there is nothing to measure.")
        step = len(self._images) / min(max_images or len(self._images), len(self._images))
        self._chosen = [int(i * step) for i in range(round(len(self._images) / step))]

    def __len__(self) -> int:
        return len(self._chosen)

    def record_id(self, index: int) -> str:
        """Id of a record, or path of a file below the folder."""
        found = self._images[self._chosen[index]]
        if self.is_prepared:
            return str(found.record_id)
        return str(found.relative_to(self.path).as_posix())

    def image_tensor(self, index: int, size: int) -> Tensor:
        """(3, size, size) in [-1, 1].

        Raises:
            ImageError: if the image is missing or damaged; it is named.
        """
        found = self._images[self._chosen[index]]
        if self.is_prepared:
            image = open_image(found.image, name=f"the image of {found.record_id}")
        else:
            image = open_image(found)
        return to_tensor(CROPS[self.crop].cut(image, size))

    @cached_property
    def fingerprint(self) -> str:
        """Identifies the images: prepared ones by content, a folder by names and file sizes."""
        if self.is_prepared:
            whole = str(self._images.fingerprint)
        else:
            whole = fingerprint(
                f"{path.relative_to(self.path).as_posix()} {path.stat().st_size}\n".encode(
                    "utf-8", "backslashreplace"
                )
                for path in self._images
            )
        return whole if len(self) == len(self._images) else f"{whole}, {len(self)} evenly spaced"
