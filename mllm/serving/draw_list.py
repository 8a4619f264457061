"""Draw a list of prompts, however long: `semhitok generate`.

    semhitok generate --model DIR --prompt "a teal triangle" --num-images 4 --out DIR
    torchrun --nproc_per_node 8 -m semhitok generate --model DIR --prompts FILE --out DIR

The list streams through the batch (`drawing.engine`); codes are decoded and files written by a
second thread meanwhile. Ranks share the list by turns and need no connection to each other. What is
finished stays: the same command goes on after it.
"""

import argparse
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from mllm.drawing.drawer import Drawer, DrawingJob
from mllm.drawing.generate import default_sampler
from mllm.model.sampler import Sampler
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from mllm.serving.edit_options import NOTHING_KEPT, Kept, kept_from_arguments
from mllm.serving.gallery import Gallery, Picture, pictures
from mllm.serving.prompts import PromptList
from runtime.errors import UserError
from runtime.progress import Progress
from runtime.run_folder import make_folder
from runtime.settings import to_dict

MAX_WAITING = 64  # drawn images that may wait for the writing thread


def draw_list(
    folder: Path | str,
    prompts: PromptList,
    out: Path,
    num_images: int = 1,
    batch_size: int = 16,
    sampler: dict[str, Any] | None = None,
    edit: argparse.Namespace | None = None,
    overwrite: bool = False,
    compiled: bool = False,
) -> Path:
    """Draw every prompt of a list that is not drawn yet.

    Args:
        folder: of a unified model.
        prompts: the list.
        out: folder for the images, see `mllm.serving.gallery`.
        num_images: drawings of each prompt.
        batch_size: images drawn together; the images do not depend on it.
        sampler: fields of `Sampler`; None is the model's own setting.
        edit: `--image` and what to keep of it; see `mllm.serving.edit_options`.
        overwrite: draw again what is there from other prompts or settings.
        compiled: draw with a compiled pass, see `cpu.compiled_pass`; images then depend on the
            batch size, in their last bits.

    Raises:
        UserError: if the list is empty or holds what the model cannot draw, before anything is
            drawn; if the folder cannot be written or the disk is full, with what is finished kept.
    """
    count = prompts.check() * num_images
    make_folder(out)
    model, processor = load_for_inference(folder)
    chosen = default_sampler(model, **(sampler or {}))
    drawer = Drawer(model, processor, chosen, batch_size, compiled)
    kept = kept_from_arguments(drawer, edit) if edit is not None else NOTHING_KEPT
    settings: dict[str, Any] = {"sampler": to_dict(chosen), "kept": kept.record}
    if drawer.engine.compiled is not None:
        settings["compiled_for"] = batch_size
    gallery = Gallery(out, settings, model_fingerprint(folder))
    for prompt in prompts:
        try:
            drawer.check(_job(Picture(prompt, 0), kept))
        except UserError as error:
            name = "" if prompts.path is None else f"Prompt {prompt.name}: "
            raise UserError(f"{name}{error}") from error

    rank, ranks = _rank()
    num_mine = len(range(rank, count, ranks))
    done = _finished(gallery, prompts, num_images, rank, ranks, overwrite)
    todo = (
        picture
        for number, picture in enumerate(pictures(prompts, num_images))
        if number % ranks == rank and not done[number // ranks]
    )
    num_done = sum(done)
    with Progress(num_mine, "draw", unit="image", initial=num_done) as progress:
        _draw_and_write(drawer, todo, kept, gallery, progress)
    gallery.finish(prompts, num_images)
    return out


def _draw_and_write(
    drawer: Drawer, todo: Iterator[Picture], kept: Kept, gallery: Gallery, progress: Progress
) -> None:
    """Draw here; decode and write in a second thread, for which drawing seldom has to wait."""
    started, drawn = time.monotonic(), 0
    given: dict[int, Picture] = {}
    waiting: deque[Future] = deque()

    def jobs() -> Iterator[DrawingJob]:
        for number, picture in enumerate(todo):
            given[number] = picture
            yield _job(picture, kept)

    def collect(at_most: int) -> None:
        nonlocal drawn
        while waiting and (len(waiting) > at_most or waiting[0].done()):
            waiting.popleft().result()
            drawn += 1
            progress.update(1, **{"images/s": drawn / max(time.monotonic() - started, 1e-6)})

    with ThreadPoolExecutor(1, "decode") as writer:
        try:
            for number, codes in drawer.draw(jobs()):
                picture = given.pop(number)
                waiting.append(writer.submit(_decode_and_write, drawer, gallery, picture, codes))
                collect(MAX_WAITING)
            collect(0)
        except UserError as error:
            for future in waiting:
                future.cancel()
            raise UserError(
                f"{str(error).rstrip('.')}; finished images are kept, and the same command goes on "
                f"after them."
            ) from error


def _decode_and_write(drawer: Drawer, gallery: Gallery, picture: Picture, codes: Tensor) -> None:
    gallery.write(picture, drawer.pictures(codes.unsqueeze(0))[0])


def _job(picture: Picture, kept: Kept) -> DrawingJob:
    prompt = picture.prompt
    return DrawingJob(prompt.text, picture.seed, prompt.negative, kept.semantic, kept.pixel)


def _finished(
    gallery: Gallery, prompts: PromptList, num_images: int, rank: int, ranks: int, overwrite: bool
) -> bytearray:
    """Which of this rank's images are there already; what was half written is removed."""
    done = bytearray()
    if ranks == 1:  # else another rank, which had nothing to draw, may be writing one
        gallery.delete_half_an_index()
    remains = gallery.remains()
    for number, picture in enumerate(pictures(prompts, num_images)):
        if number % ranks != rank:
            continue
        for path in remains.get(picture.file, ()):
            path.unlink(missing_ok=True)
        try:
            done.append(gallery.holds(picture))
        except UserError:
            if not overwrite:
                raise
            done.append(False)
    return done


def _rank() -> tuple[int, int]:
    """This process among those of `torchrun`, which set the two variables."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def command(args: argparse.Namespace) -> Path:
    """`semhitok generate`."""
    if args.prompt is None and args.prompts is None and args.image is None:
        raise UserError("Nothing to draw: give --prompt, --prompts, or an --image to edit.")
    prompts = PromptList(args.prompts, args.prompt, args.negative_prompt or "", args.seed)
    overrides = {name: getattr(args, name, None) for name in Sampler.model_fields}
    edit = args if args.image is not None else None
    if edit is None and (args.keep_mask or args.keep_rows or args.keep or args.paint_over):
        raise UserError("Nothing to keep from: give the --image that is to be edited.")
    return draw_list(
        args.model,
        prompts,
        Path(args.out),
        args.num_images,
        args.batch_size,
        overrides,
        edit,
        args.overwrite,
        args.compile,
    )
