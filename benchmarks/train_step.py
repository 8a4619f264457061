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
from runtime.config import load_config
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import save_tokenizer
from tokenizer.training.phase_pixels import PixelPhase
from tokenizer.training.settings import (
    PixelPhaseConfig,
    SemanticPhaseConfig,
    TeacherPhaseConfig,
    TrainingConfig,
)

CONFIGS = Path(__file__).parents[1] / "configs"
SIZES = ("quickstart", "paper/256", "paper/384")
VARIANTS = ("float32", "bfloat16", "float32-compiled", "bfloat16-compiled")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    arguments = _parse(argv)
    device = protocol.start(arguments)
    with tempfile.TemporaryDirectory() as folder:
        size = save_random_tokenizer(arguments.size, Path(folder) / "model")
        training = TrainingConfig(1, arguments.batch_size, 1e-4)
        config = PixelPhaseConfig(Path("none"), Path("none"), Path(folder) / "model", training)
        shape = (arguments.batch_size, 3, size, size)
        images = torch.rand(shape, device=device) * 2 - 1
        phases = {name: PixelPhase(config, None).to(device) for name in arguments.variants}  # type: ignore[arg-type]
    steps = {name: make_step(phase, name, images) for name, phase in phases.items()}
    for phase in phases.values():
        phase.start([images])
    seconds = protocol.seconds_in_turn(steps, arguments.repeats)
    rows = []
    for name, step in steps.items():
        speed = arguments.batch_size / protocol.median(seconds[name])
        rows.append(
            {
                "variant": name,
                "images_per_second": speed,
                "held_gb": held_bytes(phases[name]) / 1e9,
                "step_gb": protocol.peak_bytes(step, device) / 1e9,
            }
        )
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


def save_random_tokenizer(size: str, folder: Path) -> int:
    """Save an untrained tokenizer of a config; return its image size in pixels."""
    fields = load_config(SemanticPhaseConfig, CONFIGS / size / "semantic.yaml").model
    teacher = {"model_type": "siglip_vision_model", "vision_use_head": False}
    file = CONFIGS / size / "teacher.yaml"
    if file.is_file():
        teacher |= load_config(TeacherPhaseConfig, file).vision
    else:  # ViT-L, which the paper sizes are made for
        teacher |= {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        teacher |= {"num_attention_heads": 16}
        teacher |= {name: fields[name] for name in ("image_size", "patch_size")}
    model = SemHiTokModel(SemHiTokConfig(teacher_config=teacher, **fields))
    save_tokenizer(model, folder)
    return model.config.image_size


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
        phase.after_step()

    return step


def held_bytes(phase: nn.Module) -> int:
    """What stays between steps: weights, buffers, and AdamW's two averages of what is trained."""
    tensors = [*phase.parameters(), *phase.buffers()]
    moments = [p for p in phase.parameters() if p.requires_grad] * 2
    return sum(tensor.numel() * tensor.element_size() for tensor in (*tensors, *moments))


def _variants(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in VARIANTS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(VARIANTS)}")
    return names


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = protocol.make_parser(
        __doc__ or "",
        "python -m benchmarks.train_step --size paper/256 --batch-size 16 --device cuda "
        "--variants float32,bfloat16,bfloat16-compiled",
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="quickstart",
        help="folder of configs/ whose tokenizer is built (default: quickstart)",
    )
    parser.add_argument(
        "--batch-size", type=protocol.positive, default=8, help="images at once (default: 8)"
    )
    parser.add_argument(
        "--variants",
        type=_variants,
        default=["float32", "bfloat16"],
        metavar="NAME,...",
        help=f"of {', '.join(VARIANTS)} (default: float32,bfloat16)",
    )
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
