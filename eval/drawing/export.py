"""Draws the prompts of a text-to-image benchmark into its own layout, and goes on where it stopped.

Every drawing has its own seed, so neither the batch, nor the number of ranks, nor an interruption
changes a picture.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.drawing.layouts import LAYOUTS, PART, Prompt, check_layout, save_drawing
from eval.measures.conditions import UNKNOWN
from runtime.errors import UserError
from runtime.files import file_sha256, read_json, write_json
from runtime.rank_group import RankGroup
from runtime.run_folder import describe_environment, make_folder
from runtime.settings import to_dict

EXPORT = "export"
"""Below the output: nothing lies in it but what the benchmark's scorer wants."""

RECORD = "drawing.json"
"""What the folder was drawn with; a folder of other settings is not gone on with."""


def export(
    task: str,
    prompts: Sequence[Prompt],
    prompt_file: Path | str,
    model_dir: Path | str,
    out_dir: Path | str,
    batch_size: int = 24,
    seed: int = 0,
    sampler: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Draw what is not drawn yet, and check that the folder is whole; under torchrun on all ranks.

    Args:
        task: a name of `LAYOUTS`.
        prompts: of `read_prompts`.
        prompt_file: where they are from, for the record.
        model_dir: a saved unified model.
        out_dir: gets `drawing.json`, and `export/`, the folder for the benchmark's scorer.
        batch_size: drawings at a time.
        seed: of the first drawing; the others count on from it.
        sampler: settings in place of the model's own; None leaves one to the model.

    Returns:
        What `drawing.json` holds.

    Raises:
        UserError: if the folder was drawn with other settings, or `model_dir` holds no model.
    """
    from mllm.drawing.generate import default_sampler, draw
    from mllm.saved.fingerprint import model_fingerprint
    from mllm.saved.load import load_for_inference

    out_dir = Path(out_dir)
    folder = out_dir / EXPORT
    model, processor = load_for_inference(model_dir)
    settings = default_sampler(model, **(sampler or {}))
    record: dict[str, Any] = {
        "task": task,
        **describe_prompts(task, prompts, prompt_file),
        "prompts_rewritten": False,
        "guidance_convention": "u + s·(c - u): c conditional, u unconditional, s the scale",
        "sampler": to_dict(settings),
        "seed": seed,
        "model": str(model_dir),
    }
    commit = (describe_environment()["git"] or {}).get("commit")
    with RankGroup() as ranks:
        # Once: it reads all of the weights.
        record["checkpoint_fingerprint"] = ranks.from_main(lambda: model_fingerprint(model_dir))
        ranks.from_main(lambda: _begin(out_dir, record, commit))
        seeds = _seeds(task, prompts, seed)
        todo = [
            index
            for index, prompt in enumerate(prompts)
            if not all((folder / path).is_file() for path in prompt.paths)
        ][ranks.rank :: ranks.world_size]
        texts = [prompts[index].text for index in todo for _ in seeds[index]]
        numbers = [number for index in todo for number in seeds[index]]
        drawings = iter(draw(model, processor, texts, numbers, settings, batch_size))
        for index in todo:
            images = [next(drawings) for _ in seeds[index]]
            save_drawing(task, folder, prompts[index], images)
        ranks.gather(None)  # nobody looks before everybody has drawn
        if ranks.rank == 0:
            if finish := LAYOUTS[task].finish:
                finish(folder, prompts)
            check_layout(task, folder, prompts)
    return record | {"commit": commit}


def describe_prompts(
    task: str, prompts: Sequence[Prompt], prompt_file: Path | str
) -> dict[str, Any]:
    """What is drawn, for the record, whoever draws it."""
    return {
        "num_prompts": len(prompts),
        "num_drawings": sum(map(len, _seeds(task, prompts, 0))),
        "prompt_file": str(prompt_file),
        "prompts_sha256": _sha256(Path(prompt_file)),
    }


def read_record(folder: Path) -> dict[str, Any]:
    """What the drawings of a folder were made with; little where another system made them."""
    path = folder.parent / RECORD
    if folder.name == EXPORT and path.is_file():
        return dict(read_json(path))
    whose = f"{UNKNOWN}: drawings of another system"
    return {"drawn_by": whose, "prompts_rewritten": whose}


def _begin(out_dir: Path, record: Mapping[str, Any], commit: str | None) -> None:
    """Write the record, or see that a folder that was begun has the same; tidy up after a kill."""
    path = make_folder(out_dir) / RECORD
    for left in (out_dir / EXPORT).rglob(f".*{PART}"):
        left.unlink()
    if path.is_file():
        before = {key: value for key, value in read_json(path).items() if key != "commit"}
        # Where model and prompts lie is of no matter: fingerprints tell what they are.
        places = ("model", "prompt_file")
        differs = [k for k in record if k not in places and before.get(k) != record[k]]
        if differs:
            raise UserError(
                f"{out_dir} was drawn with another {' and '.join(differs)}: give another --out, "
                "or delete it."
            )
        return
    write_json(path, dict(record) | {"commit": commit})


def _seeds(task: str, prompts: Sequence[Prompt], first: int) -> list[range]:
    """The seeds of each prompt's drawings."""
    starts, seeds = first, []
    for prompt in prompts:
        number = 4 if LAYOUTS[task].grid else len(prompt.paths)
        seeds.append(range(starts, starts + number))
        starts += number
    return seeds


def _sha256(file: Path) -> str:
    if file.is_file():
        return file_sha256(file)[:12]
    return ",".join(file_sha256(path)[:12] for path in sorted(file.iterdir()) if path.is_file())
