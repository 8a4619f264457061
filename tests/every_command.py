"""A short call of every command, on models that are a few kilobytes large."""

import json
from pathlib import Path

import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from mllm.saved.load import load_processor
from semhitok import main as cli
from tests.mllm.tiny import World, make_model, picture, write_phase
from tests.test_bad_input import MODEL, VISION

LINES = {
    "prepare": "folder:@pictures --out @out",
    "data inspect": "@data --out @out/page.html",
    "data images": "--data @data --out @out --max-images 3",
    "train teacher": "--config @teacher.yaml out=@out",
    "train semantic": "--config @semantic.yaml out=@out",
    "train pixel": "--config @pixel.yaml out=@out",
    "train decoder": "--config @pixel.yaml out=@out",
    "train joint": "--config @joint.yaml out=@out",
    "extract-codes": "--tokenizer @tokenizer --data @data --out @out --shard-size 6",
    "reconstruct": "--tokenizer @tokenizer @pictures/0.png @pictures/1.png --out @out",
    "export-tokenizer": "--tokenizer @tokenizer --half encoder --out @out",
    "init-mllm": "--config @init.yaml out=@out",
    "train mllm": "--config @mllm.yaml out=@out",
    "plan": "--config @mllm.yaml --gpus 1 --gpu-memory 80G --out @out/plan.json",
    "merge-lora": "--model @lora --out @out",
    "export-llm": "--model @flat --out @out",
    "generate": "--model @model --prompt bar --num-images 2 --out @out",
    "ask": "--model @model --questions @questions.jsonl --out @out/answers.jsonl --batch-size 2",
    "eval reconstruction": "--tokenizer @tokenizer --data @data --out @out",
    "eval observation": "--tokenizer @tokenizer --data @data --out @out",
    "eval vqa": "--model @model --data @data --out @out --max-new-tokens 4 --batch-size 8",
    "eval generation": "--model @model --out @out --seeds 1",
    "eval input-ablation": "--model @model --data @data --out @out --max-images 3",
    "eval all": "--model @model --data @data --out @out --seeds 1 --max-images 3",
    "eval compare": "@scores @scores --out @out",
    "run": "@recipe.yaml --out @out --no-open",
}
"""Words behind each command that writes; @ is the place, and @out a folder of its own."""

SILENT = {"describe", "serve", "chat"}
"""Commands that write nothing; `chat` writes drawings alone, when asked to."""
ALIKE = {"quickstart": "run", "ablate": "run"}
"""Commands that do nothing but run others, as another one does."""

_TRAINING = "training: {num_steps: 2, global_batch_size: 4, learning_rate: 1e-3, warmup_steps: 0, "
_TRAINING += "checkpoint_every: 1}\n"
_TEXT = "{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
_TEXT += "max_position_embeddings: 16}"


def make_place(root: Path) -> Path:
    """The files that `LINES` name."""
    torch.manual_seed(0)
    world = World(root / "world")
    for name, folder in (
        ("data", world.data), ("tokenizer", world.tokenizer), ("model", world.start),
    ):  # fmt: skip
        (root / name).symlink_to(folder)
    SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False)).save_pretrained(
        root / "teacher"
    )
    lora = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "targets": [], "token_ids": [1]}
    for name, model in (
        ("flat", make_model(world, "flat", image_positions="none")),
        ("lora", make_model(world, lora=lora)),
    ):
        model.save_pretrained(root / name)
        load_processor(world.start).save_pretrained(root / name)
    (root / "pictures").mkdir()
    for number, colour in enumerate(("red", "green", "blue")):
        picture(colour, "bar").save(root / "pictures" / f"{number}.png")
        (root / "pictures" / f"{number}.txt").write_text(f"a {colour} bar\n")
    asked = [{"image": f"pictures/{n}.png", "question": "what?"} for n in range(3)]
    (root / "questions.jsonl").write_text("".join(json.dumps(each) + "\n" for each in asked))
    _write_configs(root, world)
    evaluate = "eval reconstruction --tokenizer @tokenizer --data @data --out @out"
    assert cli.main(words(evaluate, root, root / "scores")) == 0
    return root


def _write_configs(root: Path, world: World) -> None:
    common = f"data: {world.data}\n{_TRAINING}"
    kmeans = "codebook: {kmeans_images: 8}\n"
    # Pixel and decoder phases start from a tokenizer that has images of its own in the data.
    texts = {
        "teacher": f"{common}vision: {json.dumps(VISION)}\ntext: {_TEXT}\nvocab_size: 300\n",
        "semantic": f"{common}{kmeans}teacher: {root / 'teacher'}\nmodel: {json.dumps(MODEL)}\n",
        "pixel": f"{common}tokenizer: {world.tokenizer}\n",
        "init": f"tokenizer: {world.tokenizer}\nvocab_size: 300\ntext_data: [{world.data}]\n"
        "text_config: {model_type: qwen2, hidden_size: 32, intermediate_size: 32, "
        "num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2}\n",
        "recipe": "title: short\nout: unused\nsteps:\n"
        f"  prepare: {{run: prepare, sources: ['folder:{root / 'pictures'}'], "
        "out: '${out}/data'}\n"
        "  look: {run: data inspect, data: '${out}/data', out: '${out}/page.html'}\n",
    }
    texts["joint"] = texts["semantic"]
    for name, text in texts.items():
        (root / f"{name}.yaml").write_text(text)
    short = world.phase(root / "unused", num_steps=2, warmup_steps=0, checkpoint_every=1)
    write_phase(root / "mllm.yaml", short)


def words(line: str, place: Path, out: Path) -> list[str]:
    """The words of a line, with the place and the folder to write filled in."""
    return [word.replace("@out", str(out)).replace("@", f"{place}/") for word in line.split()]
