"""A folder with weights that are not finite is refused by every command that loads it."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, SiglipVisionConfig, SiglipVisionModel

from mllm.saved.load import load_model, load_processor
from semhitok import main as cli
from semhitok.command import load
from semhitok.commands import COMMANDS
from tests.mllm.tiny import World, make_model, picture, write_phase
from tests.test_bad_input import MODEL, VISION

LOADS = {
    "export-tokenizer": "--tokenizer @tokenizer --half encoder --out out",
    "extract-codes": "--tokenizer @tokenizer --data @data --out out",
    "reconstruct": "--tokenizer @tokenizer @image.png --out out",
    "eval reconstruction": "--tokenizer @tokenizer --data @data --out out",
    "eval observation": "--tokenizer @tokenizer --data @data --out out",
    "train pixel": "--config @pixel.yaml tokenizer=@tokenizer",
    "train decoder": "--config @pixel.yaml tokenizer=@tokenizer",
    "init-mllm": "tokenizer=@tokenizer text_data=[@data] out=out",
    "train semantic": "--config @semantic.yaml teacher=@teacher",
    "train joint": "--config @semantic.yaml teacher=@teacher",
    "generate": "--model @model --prompt bar --out out",
    "ask": "--model @model --image @image.png --question what?",
    "chat": "--model @model",
    "serve": "--model @model",
    "eval vqa": "--model @model --data @data --out out",
    "eval generation": "--model @model --out out --seeds 1",
    "eval input-ablation": "--model @model --data @data --out out",
    "eval all": "--model @model --data @data --out out",
    "train mllm": "--config @mllm.yaml model=@model out=out",
    "merge-lora": "--model @model --out out",
    "export-llm": "--model @flat --out out",
}
OTHERS = {
    "a language model": "init-mllm tokenizer=@whole llm=@llm out=out",
    "a measure": "eval reconstruction --tokenizer @whole --data @data --network @teacher --out out",
}
LOADS_NONE = {"describe", "plan", "ablate"}
"""The first two read configs alone, the last leaves its work to other commands."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders whose last tensor has one number that is none, and what commands need beside it."""
    root = tmp_path_factory.mktemp("place")
    world = World(root / "world")
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False)).save_pretrained(
        root / "teacher"
    )
    shutil.copytree(world.tokenizer, root / "tokenizer")
    shutil.copytree(world.start, root / "model")
    make_model(world, "flat", image_positions="none").save_pretrained(root / "flat")
    load_processor(world.start).save_pretrained(root / "flat")
    language_model = load_model(world.start).language_model
    AutoModelForCausalLM.from_config(language_model.config).save_pretrained(root / "llm")
    AutoTokenizer.from_pretrained(world.start).save_pretrained(root / "llm")
    for number, name in enumerate(("teacher", "tokenizer", "model", "flat", "llm")):
        spoil(root / name / "model.safetensors", (float("nan"), float("inf"))[number % 2])
    (root / "data").symlink_to(world.data)
    (root / "whole").symlink_to(world.tokenizer)
    picture("red", "bar").save(root / "image.png")
    common = f"data: {world.data}\nout: out\ntraining: {{num_steps: 1, global_batch_size: 2, "
    common += "learning_rate: 1e-3}\n"
    (root / "pixel.yaml").write_text(common)
    (root / "semantic.yaml").write_text(f"{common}model: {MODEL}\n")
    write_phase(root / "mllm.yaml", world.phase(root / "run"))
    return root


def spoil(path: Path, value: float) -> None:
    tensors = load_file(path)
    name = max(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("words", [*(f"{k} {v}" for k, v in LOADS.items()), *OTHERS.values()])
def test_weights_that_are_not_finite_are_one_sentence(words, place, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    capfd.readouterr()
    given = [word.replace("@", f"{place}/") for word in words.split()]
    assert cli.main(given) == 2
    error = capfd.readouterr().err.splitlines()[-1]
    assert error.startswith("semhitok: error: ") and "not finite" in error
    folders = [word for word in words.replace("=", " ").split() if word[0] == "@"]
    assert any(f"{place}/{name[1:]}" in error for name in folders), error
    left = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {".json", ".yaml"}  # settings, written before the weights are loaded


def test_every_command_that_loads_weights_is_tried():
    fields = {"tokenizer", "model", "teacher"}
    loads = {
        name for name in COMMANDS if fields & load(COMMANDS[name].settings).model_fields.keys()
    }
    assert loads - LOADS_NONE == LOADS.keys()
