"""A throw-away world: a dozen small pictures, an untrained image tokenizer, and a model on both."""

import copy
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from data_pipelines.records import Question, Record
from mllm.data.settings import MixtureSettings
from mllm.drawing.public_model import UnifiedForConditionalGeneration
from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from mllm.phase.settings import PhaseSettings
from mllm.training.report import UNSTEADY
from runtime.metrics_log import read_metrics
from runtime.settings import save_settings
from tests.codes import extract
from tests.ports import free_port
from tests.prepared import prepare_records
from tests.processes import run_ranks
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import save_tokenizer

REPOSITORY = Path(__file__).parents[2]
NUM_SEMANTIC, NUM_PIXEL, NUM_POSITIONS = 5, 3, 4  # K, M, N
COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 40, 200)}
SHAPES = ("bar", "box")
QUESTIONS = [("what color is it?", "red"), ("what shape is it?", "bar"), ("is it blue?", "no")]


def picture(colour: str, shape: str, shift: int = 0) -> Image.Image:
    """16×16 pixels: a coloured bar or box on a light ground."""
    image = Image.new("RGB", (16, 16), (240, 235 - shift, 230))
    corner = (2 + shift, 5, 13, 9) if shape == "bar" else (3 + shift, 2, 11 + shift, 13)
    image.paste(COLOURS[colour], corner)
    return image


def make_records() -> list[Record]:
    """Twelve captioned pictures with three questions each."""
    records = []
    for shift in range(2):
        for colour in COLOURS:
            for shape in SHAPES:
                buffer = io.BytesIO()
                picture(colour, shape, shift).save(buffer, "PNG")
                name = f"{colour}-{shape}-{shift}"
                asked = [
                    ("what color is it?", colour),
                    ("what shape is it?", shape),
                    (f"is it {colour}?", "yes"),
                ]
                questions = [Question(q, [a], f"{name}-{i}") for i, (q, a) in enumerate(asked)]
                records.append(Record(name, buffer.getvalue(), [f"a {colour} {shape}"], questions))
    return records


def save_tiny_tokenizer(out: Path, seed: int = 0) -> Path:
    """An image tokenizer with random weights."""
    torch.manual_seed(seed)
    branch = {"hidden_size": 32, "attention_heads": 2}
    sizes = {
        f"{part}_{k}": v for part in ("semantic", "pixel", "decoder") for k, v in branch.items()
    }
    config = SemHiTokConfig(
        teacher_config={
            "model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8,
            "vision_use_head": False,
        },
        image_size=16, patch_size=8, num_semantic_codes=NUM_SEMANTIC, num_pixel_codes=NUM_PIXEL,
        semantic_code_dim=8, pixel_code_dim=6, semantic_encoder_layers=1, semantic_decoder_layers=1,
        pixel_encoder_layers=1, decoder_layers=1, enhance_decoder_hidden_size=32,
        enhance_decoder_layers=1, enhance_decoder_attention_heads=2, **sizes,
    )  # fmt: skip
    save_tokenizer(SemHiTokModel(config), out)
    return out


TEXT_CONFIG = {
    "model_type": "qwen2", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}  # fmt: skip


class World:
    """Folders of everything that training starts from."""

    def __init__(self, root: Path):
        self.data = prepare_records(make_records(), root / "data")
        self.tokenizer = save_tiny_tokenizer(root / "tokenizer")
        self.codes = extract(self.tokenizer, self.data, root / "codes")
        self.start = init_mllm(
            InitSettings(
                tokenizer=self.tokenizer,
                out=root / "start",
                text_config=dict(TEXT_CONFIG),
                text_data=[self.data],
                vocab_size=320,
            )
        )

    def phase(self, out: Path, **settings) -> PhaseSettings:
        """A short run of the mllm phase."""
        defaults = {
            "num_steps": 12, "global_batch_size": 4, "learning_rate": 3e-3, "max_seq_length": 64,
            "warmup_steps": 2, "use_cpu": True, "log_every": 1,
            "mixture": MixtureSettings(drawing_weight=4.0),
        }  # fmt: skip
        paths = {"data": self.data, "codes": self.codes, "model": self.start, "out": out}
        return PhaseSettings(**{**paths, **defaults, **settings})


def make_model(world: World, image_head: str = "hierarchical", **settings):
    """The start model with weights large enough that every part of the input shows."""
    config = copy.deepcopy(
        UnifiedForConditionalGeneration.config_class.from_pretrained(world.start)
    )
    config.image_head = image_head
    for name, value in settings.items():
        setattr(config, name, value)
    torch.manual_seed(1)
    model = UnifiedForConditionalGeneration(config).eval()
    stored = load_file(world.start / "model.safetensors")
    kept = {k: v for k, v in stored.items() if k.startswith("image_tokenizer.")}
    assert not model.load_state_dict(kept, strict=False).unexpected_keys
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("image_tokenizer.") and parameter.ndim > 1:
                parameter.normal_(std=0.2)
    return model


def flat(document):
    """A document's parallel lists, one entry a token."""
    columns = document.columns()
    return SimpleNamespace(
        token_ids=columns["input_ids"],
        labels=columns["labels"],
        weights=columns["label_weights"],
        positions=columns["position_ids"],
        suffixes=columns["suffixes"],
    )


def image_ids(model, *codes: int) -> list[int]:
    """Token ids of flat image codes."""
    return [model.vocabulary.offset + code for code in codes]


def losses_of(run: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(run)]


def steady_metrics(run: Path) -> list[dict]:
    """The log of a run without what depends on the machine's speed."""
    return [
        {name: value for name, value in line.items() if name not in UNSTEADY}
        for line in read_metrics(run)
    ]


def launch(count: int, *arguments: str, launcher: str | None = None) -> subprocess.CompletedProcess:
    """`semhitok` on several ranks: forks of their own, or by the real launcher that is named."""
    if launcher is None:
        return run_ranks(count, "-m", "semhitok", *arguments)
    port, ranks = str(free_port()), str(count)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu",
        "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(REPOSITORY),
    }  # fmt: skip
    launchers = {
        "torchrun": [
            sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", ranks,
            "--master_port", port, "-m",
        ],
        "accelerate": [
            sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch",
            "--use_deepspeed", "--num_processes", ranks, "--num_machines", "1",
            "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", port, "-m",
        ],
        "deepspeed": [
            sys.executable, "-m", "deepspeed.launcher.runner", "--num_accelerators", ranks,
            "--master_port", port, "--module",
        ],
    }  # fmt: skip
    return subprocess.run(
        [*launchers[launcher], "semhitok", *arguments],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def interrupt(config: PhaseSettings) -> None:
    """Train until the ninth batch."""
    from mllm.training.train import train_mllm
    from mllm.training.trainer import UnifiedTrainer

    compute, calls = UnifiedTrainer.compute_loss, []

    def until_killed(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > 8:
            raise KeyboardInterrupt
        return compute(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(UnifiedTrainer, "compute_loss", until_killed)
        train_mllm(config)


def write_phase(path: Path, config: PhaseSettings) -> Path:
    """The YAML of a run."""
    return save_settings(config, path)


def change_config(folder: Path, out: Path, **values) -> Path:
    """A copy of a model folder whose config.json says otherwise."""
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    for key, value in values.items():
        section, _, name = key.rpartition("__")
        (config[section] if section else config)[name] = value
    (out / "config.json").write_text(json.dumps(config))
    return out
