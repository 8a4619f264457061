"""The prompt files and folder layouts of the text-to-image benchmarks, as their scorers want them.

A folder drawn here can be handed to the benchmark's own program. Prompts are never rewritten. All
files are in the table of docs/evaluation.md.
"""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from data_pipelines.images import write_png
from eval.measures.file_names import sorted_files
from runtime.errors import UserError, one_line
from runtime.files import write_json
from runtime.json_lines import json_values, write_rows
from runtime.run_folder import make_folder

MAX_DRAWINGS = 1_000_000
MAX_NAME_BYTES = 255
"""Longest file name of the usual file systems."""


@dataclass(frozen=True)
class Prompt:
    """One prompt of a benchmark and the files that it becomes."""

    text: str
    """As published."""
    paths: tuple[str, ...]
    """Below the folder: one a drawing."""
    data: Any = field(default=None, compare=False)
    """What the scorer needs of its line of the prompt file."""


@dataclass(frozen=True)
class Layout:
    """How one benchmark wants its drawings."""

    read: Callable[[Path, int], list[Prompt]]
    """(prompt file, drawings of each prompt) to prompts."""
    images_per_prompt: int
    """The benchmark's own number."""
    num_prompts: int | None
    """How many the published file has; None where it has several files."""
    format: str
    """Of the prompt file, for errors."""
    grid: bool = False
    """Four drawings make one 2×2 picture."""
    beside: Callable[[Path, Sequence[Prompt]], dict[str, Any]] = lambda folder, prompts: {}
    """(folder, prompts) to path and value of the JSON that stands beside the pictures."""


def read_prompts(task: str, file: Path | str, images_per_prompt: int | None = None) -> list[Prompt]:
    """The prompts of a benchmark's file, with paths for the benchmark's own number of drawings
    where no other is given.

    Raises:
        UserError: if the file has another format or no prompt, or two drawings would become one
            file.
    """
    file, layout = Path(file), LAYOUTS[task]
    number = images_per_prompt or layout.images_per_prompt
    if layout.grid and number != 4:
        raise UserError(f"{task} needs grids of 4 drawings, not {number}: leave --seeds away.")
    num_prompts = len(_read(layout, task, file, 1))
    if num_prompts * number > MAX_DRAWINGS:
        raise UserError(
            f"{num_prompts:,} prompts of {file} with {number:,} drawings each are more than "
            f"{MAX_DRAWINGS:,}: give fewer --seeds."
        )
    if not (prompts := _read(layout, task, file, number)):
        raise UserError(f"{file} has no prompts; give the benchmark's own: {layout.format}.")
    _refuse_bad_paths(file, prompts)
    return prompts


def _read(layout: Layout, task: str, file: Path, number: int) -> list[Prompt]:
    errors = (UserError, LookupError, TypeError, ValueError, AttributeError, OSError, csv.Error)
    try:
        return layout.read(file, number)
    except errors as error:
        reason = f"no field {error.args[0]!r}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(
            f"{file} is not a prompt file of {task} ({reason[:120]}); give the benchmark's own: "
            f"{layout.format}."
        ) from error


def check_layout(task: str, folder: Path | str, prompts: Sequence[Prompt]) -> None:
    """Refuse a folder that the benchmark's scorer would trip over or silently pass by.

    Raises:
        UserError: if a picture or what stands beside it is missing, a picture is damaged or a grid
            has an odd side; the first is named.
    """
    folder, layout = Path(folder), LAYOUTS[task]
    wanted = [path for prompt in prompts for path in prompt.paths]
    beside = layout.beside(folder, prompts)
    if missing := [path for path in (*beside, *wanted) if not (folder / path).is_file()]:
        raise UserError(
            f"{folder} lacks {len(missing):,} of the {len(wanted) + len(beside):,} files of "
            f"{task}, first {missing[0]}: draw it to the end with --model, or name another folder."
        )
    for path in wanted:
        try:
            with Image.open(folder / path) as image:
                image.verify()
                sides = image.size
        except Exception as error:  # Pillow lets a dozen kinds out of its parsers
            raise UserError(
                f"{folder / path} is not a whole picture; delete it and draw again."
            ) from error
        if layout.grid and (sides[0] % 2 or sides[1] % 2):
            raise UserError(f"{folder / path} is {sides[0]}×{sides[1]}, no grid of two by two.")


def save_drawing(task: str, folder: Path, prompt: Prompt, images: Sequence[Image.Image]) -> None:
    """Write the drawings of one prompt, each whole or not at all."""
    if LAYOUTS[task].grid:
        images = [as_grid(images)]
    for path, image in zip(prompt.paths, images, strict=True):
        make_folder((folder / path).parent)
        write_png(image, folder / path)


def write_beside(task: str, folder: Path, prompts: Sequence[Prompt]) -> None:
    """Write what stands beside the pictures: a file of lines has one."""
    for name, value in LAYOUTS[task].beside(folder, prompts).items():
        path = make_folder((folder / name).parent) / Path(name).name
        write_rows(path, [value]) if path.suffix == ".jsonl" else write_json(path, value)


def as_grid(images: Sequence[Image.Image]) -> Image.Image:
    """Four pictures row by row."""
    width, height = images[0].size
    grid = Image.new("RGB", (2 * width, 2 * height))
    for number, image in enumerate(images):
        grid.paste(image, (number % 2 * width, number // 2 * height))
    return grid


def split_grid(grid: Image.Image) -> list[Image.Image]:
    """The four pictures of a grid, in the order that `as_grid` took them."""
    width, height = grid.width // 2, grid.height // 2
    corners = [(x * width, y * height) for y in (0, 1) for x in (0, 1)]
    return [grid.crop((left, top, left + width, top + height)) for left, top in corners]


def _geneval(file: Path, number: int) -> list[Prompt]:
    prompts = []
    for index, (_, row) in enumerate(json_values(file)):
        _ = row["tag"], row["include"]
        paths = tuple(f"{index:05d}/samples/{sample:04d}.png" for sample in range(number))
        prompts.append(Prompt(_text(row["prompt"]), paths, row))
    return prompts


def _beside_geneval(folder: Path, prompts: Sequence[Prompt]) -> dict[str, Any]:
    return {f"{index:05d}/metadata.jsonl": prompt.data for index, prompt in enumerate(prompts)}


def _dpg(file: Path, number: int) -> list[Prompt]:
    """From the table of questions, whose rows repeat the prompt, or from one text file a prompt."""
    if file.is_dir():
        texts = sorted_files(file.glob("*.txt"))
        found = {path.stem: path.read_text("utf-8-sig").strip() for path in texts}
        questions: dict[str, list[dict[str, str]]] = {}
    else:
        found, questions = {}, {}
        with open(file, encoding="utf-8-sig", newline="") as lines:
            for row in csv.DictReader(lines):
                found.setdefault(row["item_id"], _text(row["text"]))
                questions.setdefault(row["item_id"], []).append(row)
    return [Prompt(_text(text), (f"{key}.png",), questions.get(key)) for key, text in found.items()]


def _mjhq(file: Path, number: int) -> list[Prompt]:
    return [
        Prompt(_text(row["prompt"]), _numbered(f"{row['category']}/{name}", number), row)
        for name, row in _json(file).items()
    ]


def _wise(file: Path, number: int) -> list[Prompt]:
    files = sorted_files(file.glob("*.json")) if file.is_dir() else [file]
    rows = [row for path in files for row in _json(path)]
    return [
        Prompt(_text(row["Prompt"]), _numbered(str(int(row["prompt_id"])), number), row)
        for row in sorted(rows, key=lambda row: int(row["prompt_id"]))
    ]


def _compbench(file: Path, number: int) -> list[Prompt]:
    texts = [line.strip() for line in file.read_text("utf-8-sig").split("\n") if line.strip()]
    if any(text.startswith(("{", "[")) for text in texts):
        raise ValueError("JSON, not one prompt a line")
    if slashed := [text for text in texts if "/" in text]:
        raise ValueError(f"a slash, which no file name has, in {slashed[0][:60]!r}")
    prompts = []
    for index, text in enumerate(texts):
        numbers = range(index * number, (index + 1) * number)
        prompts.append(Prompt(text, tuple(f"samples/{text}_{i:06d}.png" for i in numbers)))
    return prompts


def _geneval2(file: Path, number: int) -> list[Prompt]:
    prompts = []
    for index, (_, row) in enumerate(json_values(file)):
        _ = row["vqa_list"]
        prompts.append(Prompt(_text(row["prompt"]), _numbered(f"images/{index:05d}", number), row))
    if len({prompt.text for prompt in prompts}) < len(prompts):
        raise ValueError("a prompt twice, of which image_paths.json can name one")
    return prompts


def _beside_geneval2(folder: Path, prompts: Sequence[Prompt]) -> dict[str, Any]:
    paths = {prompt.text: str(folder / prompt.paths[0]) for prompt in prompts}
    return {"image_paths.json": paths}


def _numbered(stem: str, number: int) -> tuple[str, ...]:
    """One file has the bare name that the benchmark wants; more have a number behind it."""
    endings = [""] if number == 1 else [f"_{sample}" for sample in range(number)]
    return tuple(f"{stem}{ending}.png" for ending in endings)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("a prompt that is no text")
    return value


def _json(file: Path) -> Any:
    return json.loads(file.read_text("utf-8-sig"))


def _refuse_bad_paths(file: Path, prompts: Sequence[Prompt]) -> None:
    seen: set[str] = set()
    for prompt in prompts:
        for path in prompt.paths:
            parts = Path(path).parts
            if ".." in parts or Path(path).is_absolute() or len(parts) > 3:
                raise UserError(f"{file} has a name that leads out of the folder: {path!r}.")
            if len(parts[-1].encode()) > MAX_NAME_BYTES:
                raise UserError(
                    f"{file} has a prompt too long for the file name that its layout wants "
                    f"({len(parts[-1].encode())} bytes, at most {MAX_NAME_BYTES}): "
                    f"{prompt.text[:80]!r}…"
                )
            if path in seen:
                raise UserError(f"{file} names {path} twice; give the benchmark's own file.")
            seen.add(path)


LAYOUTS = {
    "geneval": Layout(
        _geneval,
        4,
        553,
        "JSONL with tag, include and prompt (evaluation_metadata.jsonl)",
        beside=_beside_geneval,
    ),
    "dpg": Layout(
        _dpg,
        4,
        1065,
        "CSV with item_id and text (dpg_bench.csv), or the folder of its text files",
        grid=True,
    ),
    "mjhq": Layout(_mjhq, 1, 30000, "a JSON object of id to category and prompt (meta_data.json)"),
    "wise": Layout(
        _wise, 1, 1000, "a JSON list with prompt_id and Prompt, or the folder of its three files"
    ),
    "t2i-compbench": Layout(_compbench, 10, None, "text, one prompt a line"),
    "geneval2": Layout(
        _geneval2,
        1,
        800,
        "JSONL with prompt and vqa_list (geneval2_data.jsonl)",
        beside=_beside_geneval2,
    ),
}
"""Each task of `DrawingTask` but easy-VQA."""
