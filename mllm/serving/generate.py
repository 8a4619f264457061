"""Draw a list of prompts, however long: `semhitok generate`.

    semhitok generate --model DIR --prompt "a teal triangle" --num-images 4 --out DIR
    torchrun --nproc_per_node 8 -m semhitok generate --model DIR --prompts FILE --out DIR

The list streams through the batch (`drawing.engine`); codes are decoded and files written by a
second thread meanwhile. Ranks share the list by turns and need no connection to each other. What is
finished stays: the same command resumes after it.
"""

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from mllm.drawing.drawer import Drawer
from mllm.drawing.requests import ImageRequest
from mllm.model.sampler import model_sampler
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from mllm.serving.edit import keep
from mllm.serving.gallery import Gallery
from mllm.serving.prompts import PromptList
from mllm.serving.settings import GenerateSettings
from runtime.errors import UserError
from runtime.memory import memory_errors
from runtime.progress import Progress
from runtime.ranks import rank_and_world
from runtime.resume import run_lock
from runtime.run_folder import make_folder
from runtime.settings import to_dict

MAX_WAITING = 64  # drawn images that may wait for the writing thread


@memory_errors("lower --batch-size")
def generate(settings: GenerateSettings) -> Path:
    """Draw every prompt of a list that is not drawn yet.

    Returns:
        The folder of images, see `mllm.serving.gallery`.

    Raises:
        UserError: if the list is empty or holds what the model cannot draw, before anything is
            drawn; if the folder cannot be written or the disk is full, with what is finished kept.
    """
    negative = settings.negative_prompt or ""
    prompts = PromptList(
        settings.prompts, settings.prompt, negative, settings.seed, settings.max_prompts
    )
    prompts.check()
    with run_lock(settings.out):
        return _generate(settings, prompts)


def _generate(settings: GenerateSettings, prompts: PromptList) -> Path:
    make_folder(settings.out)  # on the other ranks
    model, processor = load_for_inference(settings.model)
    sampler = model_sampler(model.config.image_sampler, settings.sampler)
    drawer = Drawer(model, processor, sampler, settings.batch_size, settings.compile)
    edit = keep(drawer, settings.edit)
    for request in prompts:
        try:
            drawer.check(replace(request, kept=edit.kept))
        except UserError as error:
            name = "" if settings.prompts is None else f"Prompt {request.id}: "
            raise UserError(f"{name}{error}") from error

    drawn_with: dict[str, Any] = {"sampler": to_dict(sampler), "kept": edit.record}
    if settings.compile:  # then an image depends on the batch size, in its last bits
        drawn_with["compiled_for"] = settings.batch_size
    gallery = Gallery(settings.out, drawn_with, model_fingerprint(settings.model))

    def requests() -> Iterator[ImageRequest]:
        for prompt in prompts:
            for number in range(settings.num_images):
                yield replace(prompt, seed=prompt.seed + number, number=number, kept=edit.kept)

    # Tasks of a job array may each have a list of their own; the processes of torchrun share one.
    rank, ranks = rank_and_world() if "RANK" in os.environ else (0, 1)
    if ranks == 1:  # else another rank, which had nothing to draw, may be writing one
        gallery.delete_half_an_index()

    def own() -> Iterator[ImageRequest]:
        return islice(requests(), rank, None, ranks)

    done = gallery.find_finished(own(), settings.overwrite)
    todo = (request for request, is_drawn in zip(own(), done, strict=True) if not is_drawn)
    with Progress(len(done), "draw", unit="image", initial=sum(done)) as progress:
        _draw_and_write(drawer, todo, gallery, progress)
    gallery.finish(requests)
    return settings.out


def _draw_and_write(
    drawer: Drawer, todo: Iterable[ImageRequest], gallery: Gallery, progress: Progress
) -> None:
    """Draw here; decode and write in a second thread, for which drawing seldom has to wait."""
    started, drawn = time.monotonic(), 0
    given: dict[int, ImageRequest] = {}
    waiting: deque[Future] = deque()

    def requests() -> Iterator[ImageRequest]:
        for index, request in enumerate(todo):
            given[index] = request
            yield request

    def write(request: ImageRequest, codes: Tensor) -> None:
        gallery.write(request, drawer.pictures(codes.unsqueeze(0))[0])

    def collect(at_most: int) -> None:
        nonlocal drawn
        while waiting and (len(waiting) > at_most or waiting[0].done()):
            waiting.popleft().result()
            drawn += 1
            progress.update(1, **{"images/s": drawn / max(time.monotonic() - started, 1e-6)})

    with ThreadPoolExecutor(1, "decode") as writer:
        try:
            for index, codes in drawer.draw(requests()):
                waiting.append(writer.submit(write, given.pop(index), codes))
                collect(MAX_WAITING)
            collect(0)
        except UserError as error:
            for future in waiting:
                future.cancel()
            raise UserError(
                f"{str(error).rstrip('.')}; finished images are kept, and the same command resumes "
                f"after them."
            ) from error
