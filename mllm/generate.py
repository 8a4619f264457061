"""Draw images from prompts.

semhitok generate --model DIR --prompt "a teal triangle" --num-images 4 --out DIR
"""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mllm.drawing import Sampler
from mllm.load import load_model, load_processor
from mllm.modeling_unified import UnifiedForConditionalGeneration
from mllm.processing_unified import UnifiedProcessor
from semhitok.errors import UserError
from semhitok.progress import Progress
from semhitok.run import write_json


def draw_images(
    model: UnifiedForConditionalGeneration,
    processor: UnifiedProcessor,
    prompts: list[str],
    seeds: list[int],
    sampler: Sampler | None = None,
) -> list[Image.Image]:
    """Draw prompt i with seed i, in one batch."""
    inputs = processor.drawings(prompts).to(model.device)
    context = getattr(model.config.text_config, "max_position_embeddings", None)
    length = inputs["input_ids"].shape[1] + model.config.num_image_positions
    if context is not None and length > context:
        raise UserError(
            f"A prompt with its image takes {length} tokens, and the model writes at most "
            f"{context}: shorten the prompt."
        )
    token_ids = model.generate(**inputs, generation_mode="image", seeds=seeds, sampler=sampler)
    return processor.pictures(model.decode_image_tokens(token_ids))


def draw(
    model: UnifiedForConditionalGeneration,
    processor: UnifiedProcessor,
    prompts: list[str],
    seeds: list[int],
    sampler: Sampler,
    batch_size: int = 16,
) -> Iterator[Image.Image]:
    """Draw a list of prompts in batches, with a progress bar.

    Args:
        model, processor: see `load_drawing_model`.
        prompts: texts.
        seeds: one for each.
        sampler: see `default_sampler`.
        batch_size: images drawn together.

    Yields:
        One PIL image for each prompt, in order.
    """
    with Progress(len(prompts), "draw", unit="image") as progress:
        for start in range(0, len(prompts), batch_size):
            part = slice(start, start + batch_size)
            yield from draw_images(model, processor, prompts[part], seeds[part], sampler)
            progress.update(len(prompts[part]))


def load_drawing_model(
    folder: Path | str,
) -> tuple[UnifiedForConditionalGeneration, UnifiedProcessor]:
    """A unified model, on the GPU if there is one, with its processor."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(folder).to(device).eval(), load_processor(folder)


def default_sampler(model: UnifiedForConditionalGeneration, **overrides: float | None) -> Sampler:
    """The sampler of the model's config, with what is not None in `overrides` put in its place."""
    settings = dict(model.config.image_sampler) | {
        key: value for key, value in overrides.items() if value is not None
    }
    return Sampler(**settings)


def read_prompts(path: Path) -> list[str]:
    """One prompt a line; blank lines are skipped."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The prompt file {path} cannot be read as UTF-8 text: {error}") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise UserError(f"The prompt file {path} has no prompts: write one a line.")
    return prompts


def command(args: argparse.Namespace) -> Path:
    """`semhitok generate`."""
    prompts = [args.prompt] if args.prompt is not None else read_prompts(Path(args.prompts))
    out = Path(args.out)
    overrides = {field.name: getattr(args, field.name, None) for field in fields(Sampler)}
    repeated = [prompt for prompt in prompts for _ in range(args.num_images)]
    seeds = [args.seed + number for _ in prompts for number in range(args.num_images)]
    out.mkdir(parents=True, exist_ok=True)
    model, processor = load_drawing_model(args.model)
    sampler = default_sampler(model, **overrides)
    images = draw(model, processor, repeated, seeds, sampler, args.batch_size)
    entries = []
    for number, (prompt, seed, image) in enumerate(zip(repeated, seeds, images, strict=True)):
        name = f"{number // args.num_images:05d}-{number % args.num_images:02d}.png"
        text = PngInfo()
        text.add_itxt("prompt", prompt)
        text.add_itxt("seed", str(seed))
        image.save(out / name, pnginfo=text)
        entries.append({"file": name, "prompt": prompt, "seed": seed})
    write_json(out / "images.json", {"sampler": asdict(sampler), "images": entries})
    return out
