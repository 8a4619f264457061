"""What `semhitok generate` keeps of an image; `drawing.editing` has the rules.

    --keep-mask FILE   patches that are all white in the mask keep both codes
    --keep-rows N      the first N rows of patches keep both; the rest is drawn on from them
    --keep semantics   every patch keeps its semantic code; pixel codes are drawn anew

Only codes are kept: what stays of the image is its reconstruction. Each code has seen the whole
image: a kept patch of the background still tells of the red circle that was beside it, which helps
to continue an image and makes it harder to change it. `--paint-over` hides what is drawn anew
before the codes are taken.
"""

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from data_pipelines.images import open_image, resize_and_crop
from mllm.drawing.drawer import Drawer
from mllm.drawing.editing import grid_mask, keep_semantics, keep_where, painted_over, rows_mask
from mllm.serving.settings import EditSettings
from runtime.errors import UserError
from runtime.files import fingerprint


@dataclass(frozen=True)
class Edit:
    """What stays of an image.

    Attributes:
        kept: (N, 2) codes, see `ImageJob`; None where there is no image.
        record: how it was chosen, and a digest of the codes; for the files drawn with it.
    """

    kept: Tensor | None = None
    record: dict | None = None


NOTHING_KEPT = Edit()


def keep(drawer: Drawer, settings: EditSettings) -> Edit:
    """The codes of `settings.image` that stay.

    Raises:
        UserError: if an image cannot be read, or nothing would be kept or drawn.
    """
    assert settings.image is not None
    image = open_image(settings.image)
    config = drawer.model.config.image_tokenizer_config
    size, grid = config.image_size, config.grid_size
    num_pixel_codes = drawer.model.vocabulary.num_pixel_codes
    if settings.keep is not None:
        kept, what = keep_semantics(drawer.codes_of(image), num_pixel_codes), "semantics"
    else:
        if settings.keep_mask is not None:
            mask = mask_of(open_image(settings.keep_mask), image, size, grid)
            what = f"{int(mask.sum())} patches"
        else:
            num_rows = settings.keep_rows or 0
            if num_rows >= grid:
                raise UserError(
                    f"--keep-rows {num_rows} leaves nothing to draw: an image has {grid} rows of "
                    f"patches; keep at most {grid - 1}."
                )
            mask, what = rows_mask(num_rows, grid), f"{num_rows} rows"
        seen = painted_over(image, mask, size) if settings.paint_over else image
        kept = keep_where(drawer.codes_of(seen), mask, num_pixel_codes)
    digest = fingerprint([kept.T.contiguous().numpy().tobytes()])
    return Edit(kept, {"what": what, "codes": digest[:16]})


def mask_of(mask: Image.Image, image: Image.Image, image_size: int, grid_size: int) -> Tensor:
    """(N,) bool, where the mask of an image keeps; both are cut to the model's size alike.

    Raises:
        UserError: if the mask has another size than the image, or leaves nothing to do.
    """
    if mask.size != image.size:
        raise UserError(
            f"The mask has {mask.width}x{mask.height} pixels and the image {image.width}x"
            f"{image.height}: make them the same size, white where the image is to be kept."
        )
    keeps = grid_mask(resize_and_crop(mask, image_size), grid_size)
    if keeps.all():
        raise UserError("The mask keeps the whole image: paint black where it is to be drawn anew.")
    if not keeps.any():
        raise UserError(
            "The mask keeps no patch of the image: paint white where the image is to be kept."
        )
    return keeps
