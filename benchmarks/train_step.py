"""Images per second and memory of a step of the pixel phase, in several precisions.

Builds the tokenizer of a config with random weights (what weights hold costs no time) and runs
whole optimiser steps: teacher, both encoders, look-ups, decoder, backward pass, AdamW, codebook.
The loss is the config's L1 and L2 alone. The ratio is the last variant's speed to the first's.
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import protocol
from benchmarks.random_tokenizer import SIZES, save_random_tokenizer
from tokenizer.training.phase_pixels import PixelPhase
from tokenizer.training.settings import PixelPhaseSettings, TrainingSettings

VARIANTS = ("float32", "bfloat16", "float32-compiled", "bfloat16-compiled")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = _parse(argv)
    device = protocol.start(arguments)
    with tempfile.TemporaryDirectory() as folder:
        save_random_tokenizer(arguments.size, Path(folder) / "model")
        settings = PixelPhaseSettings(
            data=folder,
            out=Path(folder),
            tokenizer=Path(folder) / "model",
            training=TrainingSettings(
                num_steps=1, global_batch_size=arguments.batch_size, learning_rate=1e-4
            ),
        )
        phases = {name: PixelPhase(settings).to(device) for name in arguments.variants}
    size = next(iter(phases.values())).image_size
    images = torch.rand((arguments.batch_size, 3, size, size), device=device) * 2 - 1
    steps = {name: make_step(phase, name, images) for name, phase in phases.items()}
    for phase in phases.values():
        phase.start([images])
    seconds = protocol.seconds_in_turn(steps, arguments.repeats)
    rows = [
        {
            "variant": name,
            "images_per_second": arguments.batch_size / protocol.median(seconds[name]),
            "held_gb": held_bytes(phases[name]) / 1e9,
            "step_gb": protocol.peak_bytes(step, device) / 1e9,
        }
        for name, step in steps.items()
    ]
    ratio = rows[-1]["images_per_second"] / rows[0]["images_per_second"]
    protocol.print_table(
        ["variant", "images/s", "weights and AdamW, GB", "a step beside them, GB"],
        [list(row.values()) for row in rows],
    )
    protocol.print_result(
        "train_step",
        ratio,
        size=arguments.size,
        image_size=size,
        batch_size=arguments.batch_size,
        rows=rows,
        repeats=arguments.repeats,
        device=str(device),
        seed=arguments.seed,
    )


def make_step(phase: PixelPhase, variant: str, images: Tensor) -> Callable[[], None]:
    """One optimiser step of a phase, with its own AdamW."""
    optimizer = torch.optim.AdamW([p for p in phase.parameters() if p.requires_grad], lr=1e-4)
    if variant.endswith("-compiled"):
        phase.compile()
    phase.train()

    def autocast() -> AbstractContextManager:
        if not variant.startswith("bfloat16"):
            return nullcontext()
        return torch.autocast(images.device.type, dtype=torch.bfloat16)

    def step() -> None:
        with autocast():
            loss = phase({"images": images})["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        for codebook in phase.codebooks:
            codebook.after_step()

    return step


def held_bytes(phase: nn.Module) -> int:
    """What stays between steps: weights, buffers, and AdamW's two averages of what is trained."""
    tensors = [*phase.parameters(), *phase.buffers()]
    moments = [p for p in phase.parameters() if p.requires_grad] * 2
    return sum(tensor.numel() * tensor.element_size() for tensor in (*tensors, *moments))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = protocol.make_parser(
        __doc__ or "",
        "python -m benchmarks.train_step --size paper/256 --batch-size 16 --device cuda "
        "--variants float32 bfloat16 bfloat16-compiled",
    )
    parser.add_argument(
        "--size", choices=SIZES, default="quickstart", help="of configs/ (default: quickstart)"
    )
    parser.add_argument(
        "--batch-size", type=protocol.positive, default=8, help="images at once (default: 8)"
    )
    parser.add_argument(
        "--variants",
        nargs="+",
        choices=VARIANTS,
        default=["float32", "bfloat16"],
        help="the first is compared with the last (default: float32 bfloat16)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
