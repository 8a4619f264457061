"""A folder of drawn images: each file whole or absent, and saying itself what it was drawn from.

NAME-00.png          text chunks: prompt, negative_prompt, seed, settings (JSON), model
images.jsonl         file, id, prompt, negative_prompt, seed of each, in the list's order
settings.json        sampler, model fingerprint, what was kept of an image
contact-sheet.png    the first of them on one page
"""

import io
import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from data_pipelines.images import WholeImagesOnly, write_png
from mllm.drawing.requests import ImageRequest
from runtime.errors import UserError
from runtime.files import delete_temporaries, write_bytes, write_json, write_parts

INDEX, SETTINGS, SHEET = "images.jsonl", "settings.json", "contact-sheet.png"
SHEET_IMAGES, SHEET_COLUMNS, SHEET_CELL = 100, 10, 128


class Gallery:
    """Where a list is drawn to: a folder that exists; `settings` are those of every image, sampler
    and what is kept, `fingerprint` that of the model."""

    def __init__(self, folder: Path, settings: dict[str, Any], fingerprint: str):
        self.folder, self.settings, self.fingerprint = folder, settings, fingerprint
        self._settings_text = json.dumps(settings, sort_keys=True)

    def text(self, request: ImageRequest) -> dict[str, str]:
        """What an image says of itself."""
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": str(request.seed),
            "settings": self._settings_text,
            "model": self.fingerprint,
        }

    def find_finished(self, requests: Iterable[ImageRequest], overwrite: bool) -> bytearray:
        """Which of the requests are drawn already; what earlier runs have half written is removed.

        Raises:
            UserError: if a file was drawn from something else, unless it may be overwritten.
        """
        half_written: dict[str, list[Path]] = {}
        for path in self.folder.glob(".*.png.*.tmp"):
            half_written.setdefault(path.name[1:].rsplit(".", 2)[0], []).append(path)
        done = bytearray()
        for request in requests:
            for path in half_written.get(request.file, ()):
                path.unlink(missing_ok=True)
            try:
                done.append(self.holds(request))
            except UserError:
                if not overwrite:
                    raise
                done.append(False)
        return done

    def delete_half_an_index(self) -> None:
        """Delete what a run has left that was killed while it wrote what stands by the images."""
        for name in (INDEX, SETTINGS, SHEET):
            delete_temporaries(self.folder / name)

    def holds(self, request: ImageRequest) -> bool:
        """Whether an image is there, whole, and drawn from the same.

        Raises:
            UserError: if it is whole, and another one: it is not ours to overwrite.
        """
        path = self.folder / request.file
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}.") from error
        if (text := _whole_png_text(data)) is None:
            return False
        expected = self.text(request)
        other = [key for key, value in expected.items() if text.get(key) != value]
        if other:
            raise UserError(
                f"{path} was drawn from another {other[0].replace('_', ' ')} than it would be now: "
                f"choose another folder, or give --overwrite."
            )
        return True

    def write(self, request: ImageRequest, image: Image.Image) -> None:
        """Write one image.

        Raises:
            UserError: if the folder cannot be written, or the disk is full.
        """
        chunks = PngInfo()
        for key, value in self.text(request).items():
            chunks.add_itxt(key, value)
        buffer = io.BytesIO()
        image.save(buffer, "PNG", pnginfo=chunks)
        write_bytes(self.folder / request.file, buffer.getvalue())

    def finish(self, requests: Callable[[], Iterator[ImageRequest]]) -> None:
        """Write index and contact sheet, if every image is there: with ranks, the last one does."""
        if not all((self.folder / request.file).is_file() for request in requests()):
            return
        write_json(self.folder / SETTINGS, {**self.settings, "model_fingerprint": self.fingerprint})
        write_parts(self.folder / INDEX, map(_index_line, requests()))
        write_png(contact_sheet(self.folder, requests()), self.folder / SHEET)


def _index_line(request: ImageRequest) -> bytes:
    names = ("file", "id", "prompt", "negative_prompt", "seed")
    entry = {name: getattr(request, name) for name in names}
    return (json.dumps(entry, ensure_ascii=False) + "\n").encode("utf-8")


def _whole_png_text(data: bytes) -> dict[str, str] | None:
    """The text chunks of a PNG whose checksums are right up to its end; None if it is not whole."""
    if not data.rstrip(b"\0").endswith(b"IEND\xaeB`\x82"):
        return None
    try:
        with WholeImagesOnly(), Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.load()
            text = {key: str(value) for key, value in image.text.items()}  # type: ignore[attr-defined]
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            image.verify()  # checksums of all chunks; leaves the image unusable
    except Exception:  # whatever damage does to the parser, the image is drawn again
        return None
    return text


@lru_cache
def _font(is_ascii: bool) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, which has the letters of ASCII alone, or one of many alphabets."""
    if is_ascii:
        return ImageFont.load_default(size=11)
    import matplotlib  # late: most prompts need no more than Pillow's own

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", 11)


def contact_sheet(folder: Path, requests: Iterable[ImageRequest]) -> Image.Image:
    """The first hundred images on one page, each over the beginning of its prompt."""
    cells: list[Image.Image] = []
    for request in islice(requests, SHEET_IMAGES):
        cell = Image.new("RGB", (SHEET_CELL, SHEET_CELL + 18), "white")
        try:
            with Image.open(folder / request.file) as image:
                size = SHEET_CELL - 8
                scaled = image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
                cell.paste(scaled, (4, 4))
        except OSError:  # a rank is drawing it again, and makes the sheet when it is done
            pass
        line = " ".join(request.prompt.split())
        font = _font(line.isascii())
        while font.getlength(line) > SHEET_CELL - 8:
            line = line[: min(len(line) - 1, SHEET_CELL)]
        ImageDraw.Draw(cell).text((4, SHEET_CELL), line, fill="black", font=font)
        cells.append(cell)
    columns = min(SHEET_COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    width, height = SHEET_CELL, SHEET_CELL + 18
    sheet = Image.new("RGB", (columns * width, rows * height), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % columns * width, number // columns * height))
    return sheet
