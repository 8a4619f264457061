"""Draws the prompts of a text-to-image benchmark into its own layout, and resumes where it stopped.

Every drawing has its own seed, so neither the batch, nor the number of ranks, nor an interruption
changes a picture.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.drawing.easy_vqa import GUIDANCE_CONVENTION
from eval.drawing.layouts import LAYOUTS, Prompt, check_layout, save_drawing, write_beside
from eval.drawing.settings import GenerationSettings
from eval.measures.conditions import UNKNOWN
from mllm.drawing.drawer import draw
from mllm.model.sampler import model_sampler
from mllm.saved.fingerprint import model_fingerprint
from mllm.saved.load import load_for_inference
from runtime.errors import UserError
from runtime.files import TEMPORARY, file_sha256, read_json, write_json
from runtime.rank_group import RankGroup
from runtime.run_folder import code_commit, make_folder
from runtime.settings import to_dict

EXPORT = "export"
"""Below the output: holds nothing but what the benchmark's scorer wants."""
RECORD = "drawing.json"
"""What the folder was drawn with; drawing resumes only with the same settings."""
PLACES = ("model", "prompt_file", "commit")
"""What may differ on resuming: fingerprints tell what model and prompts are."""


def drawings_folder(settings: GenerationSettings) -> Path:
    """Where the drawings lie."""
    return settings.images or settings.out / EXPORT


def export(settings: GenerationSettings, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """Draw what is not drawn yet, and check that the folder is whole; under torchrun on all ranks.

    Returns what `drawing.json` holds.

    Raises:
        UserError: if the folder was drawn with other settings, or `model` holds no model.
    """
    assert settings.model is not None and settings.prompts is not None
    task, folder, model_dir = settings.task, settings.out / EXPORT, settings.model
    model, processor = load_for_inference(model_dir)
    sampler = model_sampler(model.config.image_sampler, settings.sampler)
    record: dict[str, Any] = {
        "task": task,
        **describe_prompts(task, prompts, settings.prompts),
        "prompts_rewritten": False,
        "guidance_convention": GUIDANCE_CONVENTION,
        "sampler": to_dict(sampler),
        "seed": settings.seed,
        "model": str(model_dir),
        "commit": code_commit(),
    }
    with RankGroup() as ranks:
        # Once: it reads all of the weights.
        record["checkpoint_fingerprint"] = ranks.from_main(lambda: model_fingerprint(model_dir))
        ranks.from_main(lambda: _begin(settings.out, record))
        seeds = _seeds(task, prompts, settings.seed)
        todo = [
            (prompt, own)
            for prompt, own in zip(prompts, seeds, strict=True)
            if not all((folder / path).is_file() for path in prompt.paths)
        ][ranks.rank :: ranks.world_size]
        texts = [prompt.text for prompt, own in todo for _ in own]
        numbers = [number for _, own in todo for number in own]
        drawings = iter(draw(model, processor, texts, numbers, sampler, settings.batch_size))
        for prompt, own in todo:
            save_drawing(task, folder, prompt, [next(drawings) for _ in own])
        ranks.gather(None)  # nobody looks before everybody has drawn
        if ranks.rank == 0:
            write_beside(task, folder, prompts)
            check_layout(task, folder, prompts)
    return record


def describe_prompts(task: str, prompts: Sequence[Prompt], file: Path) -> dict[str, Any]:
    """What is drawn, for the record, whoever draws it."""
    files = [file] if file.is_file() else sorted(filter(Path.is_file, file.iterdir()))
    return {
        "num_prompts": len(prompts),
        "num_drawings": sum(map(len, _seeds(task, prompts, 0))),
        "prompt_file": str(file),
        "prompts_sha256": ",".join(file_sha256(each)[:12] for each in files),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """What the drawings of a folder were made with; little where another system made them."""
    path = folder.parent / RECORD
    if folder.name == EXPORT and path.is_file():
        return dict(read_json(path))
    unknown = f"{UNKNOWN}: drawings of another system"
    return {"drawn_by": unknown, "prompts_rewritten": unknown}


def _begin(out: Path, record: Mapping[str, Any]) -> None:
    """Write the record, or compare it with that of a folder begun before; tidy up after a kill."""
    path = make_folder(out) / RECORD
    for left in (out / EXPORT).rglob(f".*{TEMPORARY}"):
        left.unlink()
    if not path.is_file():
        write_json(path, record)
        return
    before = read_json(path)
    if differs := [k for k in record if k not in PLACES and before.get(k) != record[k]]:
        raise UserError(
            f"{out} was drawn with another {' and '.join(differs)}: give another --out, or delete "
            "it."
        )


def _seeds(task: str, prompts: Sequence[Prompt], first: int) -> list[range]:
    """The seeds of each prompt's drawings."""
    numbers = [4 if LAYOUTS[task].grid else len(prompt.paths) for prompt in prompts]
    ends = itertools.accumulate(numbers, initial=first)
    return [range(start, start + number) for start, number in zip(ends, numbers, strict=False)]
