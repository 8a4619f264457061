"""Bad input to every command: exit code 2 and one clear sentence, never a traceback."""

import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.utils import logging

from data_pipelines.records import Question, Record
from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from semhitok import main as cli
from tests.codes import extract
from tests.prepared import prepare_records, prepare_sources
from tokenizer.model.configuration_semhitok import SemHiTokConfig
from tokenizer.model.modeling_semhitok import SemHiTokModel
from tokenizer.saved.model_folder import save_tokenizer

VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
MODEL = {
    "image_size": 16,
    "patch_size": 8,
    "num_semantic_codes": 8,
    "num_pixel_codes": 4,
    "semantic_code_dim": 8,
    "pixel_code_dim": 8,
}
for _part in ("semantic", "pixel", "decoder", "enhance_decoder"):
    MODEL |= {f"{_part}_hidden_size": 16, f"{_part}_attention_heads": 2}
for _part in ("semantic_encoder", "semantic_decoder", "pixel_encoder", "decoder"):
    MODEL |= {f"{_part}_layers": 1}
MODEL["enhance_decoder_layers"] = 1

PROGRESS = re.compile(r"\[\d+/\d+\] \w+$|[\w-]+  \d+/\d+ \w+  \d+%  ")
TRAINING = "training: {num_steps: 1, global_batch_size: 2, learning_rate: 1e-3}\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Good and bad files, and one tiny saved model of each kind; only to be read."""
    root = tmp_path_factory.mktemp("place")
    pictures = root / "pictures"
    pictures.mkdir()
    for number in range(4):
        Image.effect_noise((16, 16), 50).convert("RGB").save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text("a grey picture of noise and nothing else\n")
    prepare_sources(pictures, root / "no-questions")
    _prepare_questions(pictures, root / "data")

    torch.manual_seed(0)
    teacher = SiglipVisionConfig(**VISION, vision_use_head=False)
    save_tokenizer(SemHiTokModel(SemHiTokConfig(teacher_config=teacher, **MODEL)), root / "good")
    SiglipVisionModel(teacher).save_pretrained(root / "teacher")
    extract(root / "good", root / "data", root / "codes")
    text = {
        "model_type": "qwen2",
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    init = InitSettings(
        tokenizer=root / "good", out=root / "mllm", text_config=text, text_data=[root / "data"],
        vocab_size=300,
    )  # fmt: skip
    init_mllm(init)

    for name, source in (("other-shape", "good"), ("cut", "good"), ("no-weights", "good")):
        shutil.copytree(root / source, root / name)
        shutil.copytree(root / "mllm", root / f"mllm-{name}")
    for name in ("other-shape", "mllm-other-shape"):
        path = root / name / "config.json"
        config = json.loads(path.read_text())
        config.get("image_tokenizer_config", config)["num_semantic_codes"] = 16
        path.write_text(json.dumps(config))
    for name in ("cut", "mllm-cut"):
        weights = root / name / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:4000])
    for name in ("no-weights", "mllm-no-weights"):
        (root / name / "model.safetensors").unlink()
    shutil.copytree(root / "mllm", root / "mllm-no-processor")
    for path in (root / "mllm-no-processor").iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            path.unlink()
    (root / "broken-json").mkdir()
    (root / "broken-json" / "config.json").write_text("{")
    (root / "empty").mkdir()

    (root / "cut.png").write_bytes((pictures / "0.png").read_bytes()[:200])
    (root / "text.png").write_text("this is no image\n")
    (root / "empty.png").write_bytes(b"")
    (root / "nothing.txt").write_text(" \n")
    (root / "binary.txt").write_bytes(b"\xff\xfe\x00")
    (root / "long.txt").write_text("a triangle " * 5000 + "\n")
    (root / "bad-yaml").mkdir()
    (root / "bad-yaml" / "broken.yaml").write_text("data: [1, 2\n")
    (root / "bad-yaml" / "list.yaml").write_text("- 1\n")
    (root / "bad-yaml" / "unknown.yaml").write_text("outt: somewhere\n")
    (root / "bad-yaml" / "empty.yaml").write_text("")
    (root / "bad-yaml" / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    _write_phases(root)
    return root


def _prepare_questions(pictures: Path, out: Path) -> None:
    """The same pictures, with a question each, which a folder of images cannot have."""
    records = [
        Record(path.name, path.read_bytes(), ["noise"], [Question("what?", ["noise"], path.stem)])
        for path in sorted(pictures.glob("*.png"))
    ]
    prepare_records(records, out)


def _write_phases(root: Path) -> None:
    """A config of each phase that would run as it stands; tests override it into nonsense."""
    common = f"data: {root / 'data'}\nout: {root / 'run'}\n"
    vision, model = json.dumps(VISION), json.dumps(MODEL)
    text = (
        '{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, '
        '"num_attention_heads": 2, "max_position_embeddings": 8}'
    )
    phases = {
        "teacher": common + TRAINING + f"vision: {vision}\ntext: {text}\nvocab_size: 300\n",
        "semantic": common + TRAINING + f"teacher: {root / 'teacher'}\nmodel: {model}\n",
        "pixel": common + TRAINING + f"tokenizer: {root / 'good'}\n",
        "decoder": common + TRAINING + f"tokenizer: {root / 'good'}\n",
        "mllm": common
        + f"codes: {root / 'codes'}\nmodel: {root / 'mllm'}\nnum_steps: 1\nglobal_batch_size: 2\n"
        + "learning_rate: 1e-3\nmax_seq_length: 64\nuse_cpu: true\n",
        "init_mllm": f"tokenizer: {root / 'good'}\nout: {root / 'run'}\nvocab_size: 300\n"
        + f"text_data: [{root / 'data'}]\ntext_config: {{model_type: qwen2, hidden_size: 32, "
        + "intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2}\n",
    }
    for name, text in phases.items():
        (root / f"{name}.yaml").write_text(text)


@pytest.fixture(autouse=True)
def quiet():
    """What the command line asks of transformers before importing it, which here is too late."""
    verbosity, had_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    logging.set_verbosity(verbosity)
    if had_bars:
        logging.enable_progress_bar()


@pytest.fixture
def refuse(place, tmp_path, capfd, monkeypatch):
    """Runs a command that must fail, with {name} for files of the place; returns its sentence."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()  # what the fixtures wrote
        filled = [argument.replace("@", f"{place}/") for argument in arguments]
        code = cli.main(filled)
        written = capfd.readouterr()
        assert code == 2, written.err
        assert written.out == ""
        assert "Traceback" not in written.err
        *before, sentence = written.err.splitlines()
        # Where work had begun, its own progress may stand above.
        assert all(PROGRESS.match(line) for line in before), written.err
        assert sentence.startswith("semhitok: error: ")
        assert len(sentence) < 900  # a sentence
        return sentence.removeprefix("semhitok: error: ")

    return run


TOKENIZERS = {
    "@nowhere": "no such folder",
    "@empty": "holds no model",
    "@cut.png": "is a file",
    "@broken-json": "cannot be read",
    "@cut": "do not fit",
    "@no-weights": "do not fit",
    "@other-shape": "do not fit",
    "@teacher": "'siglip_vision_model' model, not an image tokenizer",
    "@mllm": "not an image tokenizer",
}
MODELS = {
    "@nowhere": "no such folder",
    "@empty": "holds no model",
    "@broken-json": "cannot be read",
    "@mllm-cut": "do not fit",
    "@mllm-no-weights": "do not fit",
    "@mllm-other-shape": "do not fit",
    "@mllm-no-processor": "no processor",
    "@good": "'semhitok' model, not a unified one",
}
PICTURES = {
    "@nowhere.png": "no such file",
    "@pictures": "is a folder",
    "@cut.png": "damaged",
    "@text.png": "no image of a known format",
    "@empty.png": "empty file",
}
DATA = {
    "@nowhere": "no such folder",
    "@cut.png": "is a file",
    "@empty": "no prepared data",
    "@pictures": "no prepared data",
}


@pytest.mark.parametrize("folder", TOKENIZERS)
@pytest.mark.parametrize("command", ["extract-codes", "reconstruct", "eval reconstruction"])
def test_folders_that_hold_no_whole_tokenizer(refuse, command, folder):
    rest = ["@pictures/0.png"] if command == "reconstruct" else ["--data", "@data"]
    sentence = refuse(*command.split(), "--tokenizer", folder, *rest, "--out", "out")
    assert TOKENIZERS[folder] in sentence


@pytest.mark.parametrize("folder", MODELS)
@pytest.mark.parametrize(
    "command", ["ask", "chat", "serve", "generate", "eval vqa", "eval generation", "merge-lora"]
)
def test_folders_that_hold_no_whole_language_model(refuse, command, folder):
    rest = {
        "ask": ["--image", "@pictures/0.png", "--question", "what?"],
        "chat": [],
        "serve": [],
        "generate": ["--prompt", "a triangle", "--out", "out"],
        "eval vqa": ["--data", "@data", "--out", "out"],
        "eval generation": ["--out", "out", "--seeds", "1"],
        "merge-lora": ["--out", "out"],
    }
    sentence = refuse(*command.split(), "--model", folder, *rest[command])
    assert MODELS[folder] in sentence


@pytest.mark.parametrize("picture", PICTURES)
def test_pictures_that_cannot_be_read(refuse, picture):
    sentence = refuse("ask", "--model", "@mllm", "--image", picture, "--question", "what?")
    assert PICTURES[picture] in sentence
    sentence = refuse("reconstruct", "--tokenizer", "@good", picture, "--out", "out")
    assert PICTURES[picture] in sentence


@pytest.mark.parametrize("folder", DATA)
@pytest.mark.parametrize("command", ["extract-codes", "eval input-ablation", "eval vqa"])
def test_folders_that_hold_no_prepared_data(refuse, command, folder):
    model = ["--tokenizer", "@good"] if command == "extract-codes" else ["--model", "@mllm"]
    sentence = refuse(*command.split(), *model, "--data", folder, "--out", "out")
    assert DATA[folder] in sentence


def test_data_without_questions(refuse):
    assert "question" in refuse(
        "eval", "vqa", "--model", "@mllm", "--data", "@no-questions", "--out", "out"
    )


@pytest.mark.parametrize("text", ["", "  \n"])
def test_empty_words(refuse, text):
    image = ["--image", "@pictures/0.png"]
    assert "empty" in refuse("ask", "--model", "@mllm", *image, "--question", text)
    assert "empty" in refuse("generate", "--model", "@mllm", "--prompt", text, "--out", "out")


def test_a_question_of_ten_thousand_words(refuse):
    image = ["--image", "@pictures/0.png"]
    chance = random.Random(0)
    words = " ".join(chance.choice(["what", "is", "this", "colour"]) for _ in range(10_000))
    sentence = refuse("ask", "--model", "@mllm", *image, "--question", words)
    assert "at most 512" in sentence and "shorten" in sentence


def test_a_prompt_of_ten_thousand_words(refuse):
    sentence = refuse(
        "generate", "--model", "@mllm", "--prompt", "a triangle " * 5000, "--out", "out"
    )
    assert "at most 512" in sentence and "shorten" in sentence
    assert "shorten" in refuse(
        "generate", "--model", "@mllm", "--prompts", "@long.txt", "--out", "out"
    )


def test_an_answer_longer_than_the_model_writes(refuse):
    image = ["--image", "@pictures/0.png", "--question", "what?"]
    assert "at most 512" in refuse("ask", "--model", "@mllm", *image, "--max-new-tokens", "600")


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        ("@nowhere.txt", "no such file"),
        ("@nothing.txt", "is empty"),
        ("@binary.txt", "not UTF-8"),
        ("@pictures", "holds no prepared data"),
    ],
)
def test_prompt_files_without_prompts(refuse, file, complaint):
    assert complaint in refuse("generate", "--model", "@mllm", "--prompts", file, "--out", "out")


@pytest.mark.parametrize(
    "option",
    [
        "--num-images=0",
        "--seed=-1",
        "--guidance-scale=x",
        "--temperature=-1",
        "--top-p=2",
        "--pixel-temperature=-1",
        "--num-candidates=0",
        "--guidance-schedule=square",
        "--min-p=2",
        "--pixel-top-k=-1",
        "--pixel-top-p=0",
        "--pixel-min-p=-1",
        "--keep-rows=0",
        "--keep=pixels",
    ],
)
def test_sampling_options_out_of_range(refuse, option):
    command = ["generate", "--model", "@mllm", "--prompt", "a triangle", "--out", "out"]
    assert option.partition("=")[0] in refuse(*command, option)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give --prompt, --prompts, or an --image"),
        (["--prompt", "a bar", "--keep-rows", "1"], "give the --image"),
        (["--image", "@pictures/0.png"], "needs one of --keep-mask"),
        (["--image", "@pictures/0.png", "--keep-rows", "2"], "keep at most 1"),
        (["--image", "@cut.png", "--keep-rows", "1"], "damaged"),
        (["--image", "@pictures/0.png", "--keep-mask", "@cut.png"], "damaged"),
        (["--image", "@nowhere.png", "--keep", "semantics"], "no such file"),
    ],
)
def test_editing_that_cannot_work(refuse, options, complaint):
    assert complaint in refuse("generate", "--model", "@mllm", "--out", "out", *options)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ([], "give --image and --question"),
        (["--image", "@pictures/0.png"], "give --image and --question"),
        (["--questions", "@nowhere.jsonl"], "no such file"),
        (["--questions", "@nothing.txt"], "has no questions"),
        (["--questions", "@binary.txt"], "cannot be read as UTF-8"),
        (["--questions", "@long.txt"], "not valid JSON"),
        (
            ["--questions", "@long.txt", "--image", "@pictures/0.png"],
            "leave --question and --image",
        ),
        (["--image", "@pictures/0.png", "--question", "a?", "--options", "yes"], "two or more"),
        (["--image", "@pictures/0.png", "--question", "a?", "--options", "a,a"], "--options"),
        (["--image", "@pictures/0.png", "--question", "a?", "--out", "@pictures"], "is a folder"),
    ],
)
def test_questions_that_cannot_be_asked(refuse, options, complaint):
    assert complaint in refuse("ask", "--model", "@mllm", *options)


def test_an_address_that_cannot_be_listened_to(refuse):
    command = ["serve", "--model", "@mllm", "--host", "127.0.0.1"]
    assert "--port" in refuse(*command, "--port", "70000")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "cannot listen at" in refuse(*command, "--port", port)
    assert "--port" in refuse(*command, "--port", "-1")


def test_an_output_that_is_a_file(refuse):
    model = ["--tokenizer", "@good"]
    assert "is a file" in refuse("reconstruct", *model, "@pictures/0.png", "--out", "@cut.png")
    assert "is a file" in refuse("extract-codes", *model, "--data", "@data", "--out", "@cut.png")
    assert "is a file" in refuse("prepare", "@pictures", "--out", "@cut.png/deeper")


@pytest.mark.parametrize(
    "option", ["--batch-size=0", "--shard-size=x", "--num-crops=0", "--num-workers=-1"]
)
def test_extraction_options_out_of_range(refuse, option):
    command = ["extract-codes", "--tokenizer", "@good", "--data", "@data", "--out", "out"]
    assert option.partition("=")[0] in refuse(*command, option)


def test_an_unknown_device(refuse):
    command = ["extract-codes", "--tokenizer", "@good", "--data", "@data", "--out", "out"]
    assert "device" in refuse(*command, "--device", "abacus")


def test_two_pictures_of_one_name(refuse):
    picture = "@pictures/0.png"
    sentence = refuse("reconstruct", "--tokenizer", "@good", picture, picture, "--out", "out")
    assert "overwrite" in sentence


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("@nowhere", "no such folder"),
        ("easy-vqa-tset", "no source"),
        ("@empty", "holds no image"),
        ("@cut.png", "is a file"),
        ("", "empty"),
        ("nonsense:x", "no kind of source 'nonsense'; known are folder, llava"),
        ("jsonl:@nowhere.jsonl", "no such file"),
        ("jsonl:@nothing.txt", "is empty"),
        ("jsonl:@long.txt", "no column"),
        ("parquet:@cut.png", "no whole parquet file"),
        ("llava:@broken-json/config.json", "needs images="),
        ("llava:@broken-json/config.json,images=@pictures", "not valid JSON"),
        ("folder:@pictures,captions=@nowhere.csv", "no such file"),
        ("folder:@pictures,caption=words,captions=@long.txt", "no column 'words'"),
        ("webdataset:@nowhere.tar", "no such file"),
        ("emoji:@cut.png", "there is no kind of source 'emoji'"),
    ],
)
def test_sources_that_are_not_there(refuse, source, complaint):
    assert complaint in refuse("prepare", source, "--out", "out")


def test_preparing_what_cannot_be(refuse):
    command = ["prepare", "@pictures", "--out", "out"]
    assert "named twice" in refuse("prepare", "@pictures", "@pictures", "--out", "out")
    assert "must be less than 1" in refuse(*command, "--test-fraction", "1")
    assert "--test-share is called --test-fraction now" in refuse(*command, "--test-share", "0.1")
    assert "must be greater than 0" in refuse(*command, "--num-workers", "0")
    assert "cannot be opened" in refuse("prepare", "@pictures", "--out", "nonsense://bucket/x")


def test_looking_at_what_is_no_prepared_data(refuse):
    assert "no prepared data" in refuse("data", "inspect", "@pictures")
    assert "no such folder" in refuse("data", "inspect", "@nowhere")
    assert "is a folder" in refuse("data", "inspect", "@data", "--out", "@pictures")


def test_a_folder_of_broken_pictures(refuse, place, tmp_path):
    (tmp_path / "broken").mkdir()
    shutil.copy(place / "cut.png", tmp_path / "broken")
    sentence = refuse("prepare", str(tmp_path / "broken"), "--out", str(tmp_path / "out"))
    assert "cut.png" in sentence


COMMANDS_WITH_CONFIG = [
    f"train {p}" for p in ("teacher", "semantic", "pixel", "decoder", "joint", "mllm")
]
COMMANDS_WITH_CONFIG += ["init-mllm"]


UNUSABLE_YAML = [
    ("@nowhere.yaml", "no such file"),
    ("@pictures", "is a folder"),
    ("@bad-yaml/broken.yaml", "not valid YAML: line"),
    ("@bad-yaml/list.yaml", "`key: value` lines"),
    ("@bad-yaml/binary.yaml", "not UTF-8"),
    ("@bad-yaml/empty.yaml", "is missing"),
    ("@bad-yaml/unknown.yaml", 'unknown key "outt"'),
]


@pytest.mark.parametrize("command", COMMANDS_WITH_CONFIG)
@pytest.mark.parametrize(("file", "complaint"), UNUSABLE_YAML)
def test_config_files_that_cannot_be_used(refuse, command, file, complaint):
    assert complaint in refuse(*command.split(), "--config", file)


@pytest.mark.parametrize(("file", "complaint"), UNUSABLE_YAML)
def test_recipes_that_cannot_be_used(refuse, file, complaint):
    assert complaint in refuse("run", file)


def phase(name):
    command = ["init-mllm"] if name == "init_mllm" else ["train", name]
    return [*command, "--config", f"@{name}.yaml", "out=run"]


@pytest.mark.parametrize("name", ["teacher", "semantic", "pixel", "decoder", "mllm", "init_mllm"])
@pytest.mark.parametrize(
    ("override", "complaint"),
    [("nonsense", "key.sub=value"), ("outt=x", "did you mean")],
)
def test_overrides_that_cannot_be_right(refuse, name, override, complaint):
    assert complaint in refuse(*phase(name), override)


@pytest.mark.parametrize("name", ["teacher", "semantic", "pixel", "decoder"])
def test_a_path_is_text_whatever_it_looks_like(refuse, name):
    assert "no such folder: [1]" in refuse(*phase(name), "data=[1]")


@pytest.mark.parametrize(
    ("name", "override", "complaint"),
    [
        ("teacher", "data=@nowhere", "no such folder"),
        ("teacher", "vision.hiden_size=8", "hidden_size"),
        ("teacher", "vision.num_attention_heads=3", "do not fit"),
        ("teacher", "training.num_steps=0", "greater than 0"),
        ("teacher", "training.learning_rate=fast", "must be a valid number"),
        ("teacher", "training.learning_rate=.inf", "finite number"),
        ("teacher", "training.betas=[1.5,2]", "less than 1"),
        ("teacher", "training.max_shift=-2", "greater than or equal to 0"),
        ("teacher", "training.seed=-1", "greater than or equal to 0"),
        ("teacher", "vocab_size=3", "raise vocab_size"),
        ("teacher", "text.max_position_embeddings=long", "do not fit"),
        ("teacher", "text.max_position_embeddings=0", "do not fit"),
        ("teacher", "vision.image_size=4", "no patch of 8"),
        ("semantic", "data=@empty", "no prepared data"),
        ("semantic", "teacher=@nowhere", "no vision encoder"),
        ("semantic", "teacher=", "the name is empty"),
        ("semantic", "teacher=@mllm", "no vision encoder"),
        ("semantic", "model.num_semantic_code=3", "did you mean num_semantic_codes"),
        ("semantic", "model.patch_size=4", "patches of 8 pixels"),
        ("semantic", "model.image_size=20", "not divisible"),
        ("semantic", "model.semantic_code_dim=0", "at least 1"),
        ("semantic", "model.semantic_encoder_layers=-1", "at least 0"),
        ("semantic", "model.teacher_mean=[0.5]", "3 numbers"),
        ("semantic", "model.teacher_layer=7", "choose -2 to 1"),
        ("semantic", "codebook.decay=2", "less than 1"),
        ("semantic", "codebook.kmeans_images=0", "greater than 0"),
        ("pixel", "tokenizer=@nowhere", "no such folder"),
        ("pixel", "tokenizer=@teacher", "not an image tokenizer"),
        ("pixel", "tokenizer=@other-shape", "do not fit"),
        ("pixel", "tokenizer=@cut", "do not fit"),
        ("decoder", "tokenizer=@empty", "no config.json"),
        ("decoder", "out=@cut.png", "is a file"),
        ("mllm", "out=", "the name is empty"),
        ("mllm", "data= ", "the name is empty"),
        ("init_mllm", "out= ", "the name is empty"),
        ("mllm", "data=@nowhere", "no such folder"),
        ("mllm", "codes=@empty", "holds no codes"),
        ("mllm", "model=@good", "not a unified one"),
        ("mllm", "model=@mllm-cut", "missing or broken"),
        ("mllm", "num_steps=0", "greater than 0"),
        ("mllm", "micro_batch_size=3", "not a multiple"),
        ("mllm", "micro_batch_size=0", "greater than 0"),
        ("mllm", "learning_rate=-1", "greater than 0"),
        ("mllm", "betas=[0.9,1.0]", "less than 1"),
        ("mllm", "num_workers=-1", "greater than or equal to 0"),
        ("mllm", "checkpoint_every=0", "greater than 0"),
        ("mllm", "mixture.drawing_weight=-1", "greater than or equal to 0"),
        ("mllm", "deepspeed=@nowhere.json", "no such file"),
        ("mllm", "mixture.caption_dropout=2", "less than or equal to 1"),
        ("mllm", "max_seq_length=4", "max_seq_length"),
        ("init_mllm", "tokenizer=@teacher", "not an image tokenizer"),
        ("init_mllm", "text_data=[]", "text_data"),
        ("init_mllm", "vocab_size=3", "raise vocab_size"),
        ("init_mllm", "seed=-1", "greater than or equal to 0"),
        ("init_mllm", "text_data=[@nowhere]", "no such folder"),
        ("init_mllm", "text_config.model_type=abacus", "unknown to transformers"),
        ("init_mllm", "text_config.hiden_size=8", "hiden_size is not a field"),
        ("init_mllm", "text_config.num_attention_heads=5", "not divisible"),
        ("init_mllm", "llm=@nowhere", "no causal language model"),
        ("init_mllm", "llm=@good", "no causal language model"),
        ("init_mllm", "image_head=round", "must be one of"),
        ("init_mllm", "out=@cut.png", "is a file"),
    ],
)
def test_settings_that_cannot_work(refuse, name, override, complaint):
    assert complaint in refuse(*phase(name), override)


def test_a_recipe_of_nothing(refuse, tmp_path):
    file = tmp_path / "recipe.yaml"
    step = "title: t\nout: out\nsteps: {prepare: {run: prepare, sources: [nowhere], out: data}}\n"
    file.write_text(step)
    assert "no source" in refuse("run", str(file))
    file.write_text(step.replace("sources: [nowhere]", "config: elsewhere.yaml"))
    assert "no such config file" in refuse("run", str(file))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--task", "abacus", "--prompts", "@nothing.txt"], "must be one of easy-vqa, geneval"),
        (["--task", "geneval"], "give --prompts"),
        (["--task", "geneval", "--prompts", "@nowhere"], "no such file or folder"),
        (["--task", "geneval", "--prompts", "@nothing.txt", "--images", "@pictures"], "no prompts"),
        (["--task", "wise", "--prompts", "@long.txt", "--images", "@pictures"], "file of wise"),
        (["--task", "dpg", "--prompts", "@binary.txt", "--images", "@pictures"], "file of dpg"),
        (
            ["--task", "t2i-compbench", "--prompts", "@long.txt", "--images", "@pictures"],
            "too long",
        ),
        (["--images", "@nowhere"], "no such folder"),
    ],
)
def test_a_drawing_benchmark_that_cannot_be(refuse, options, complaint):
    assert complaint in refuse("eval", "generation", *options, "--out", "out")


def test_an_incomplete_export_and_a_drawing_task_without_a_model(refuse, tmp_path):
    assert "give --model" in refuse("eval", "generation", "--out", "out")
    (tmp_path / "few.txt").write_text("a cat\n")
    command = ["eval", "generation", "--task", "t2i-compbench", "--prompts", "few.txt"]
    said = refuse(*command, "--images", "@pictures", "--out", "out")
    assert "lacks 10 of the 10 files" in said


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--data", "@empty"], "holds no image"),
        (["--data", "@pictures", "--network", "efficientnet-lite0"], "--distance kid"),
        (["--data", "@pictures", "--network", "facebook/dinov2-small"], "can be downloaded"),
        (["--data", "@pictures", "--network", "@mllm"], "No vision network"),
        (["--data", "@pictures", "--distance", "fid"], "one of frechet, kid"),
        (["--data", "@pictures", "--crop", "square"], "must be one of adm, short"),
        (["--data", "@pictures", "--resolution", "17"], "not divisible"),
    ],
)
def test_a_reconstruction_that_cannot_be_measured(refuse, options, complaint):
    command = ["eval", "reconstruction", "--tokenizer", "@good", "--out", "out"]
    assert complaint in refuse(*command, *options)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["compare", "@empty"], "at least 2"),
        (["compare", "@empty", "@good"], "holds no result"),
        (["compare", "@nowhere", "@good"], "no such file or folder"),
        (["input-ablation", "--model", "@mllm", "--data", "@no-questions"], "no questions"),
        (["input-ablation", "--model", "@mllm", "--data", "@empty"], "no prepared data"),
        (["all", "--model", "@mllm", "--data", "@no-questions"], "no questions"),
        (["all", "--model", "@mllm-cut", "--data", "@data"], "do not fit"),
    ],
)
def test_an_evaluation_of_nothing(refuse, arguments, complaint):
    assert complaint in refuse("eval", *arguments, "--out", "out")


@pytest.mark.parametrize("arguments", [[], ["drw"], ["train"], ["eval"], ["ask"], ["ask", "--x"]])
def test_commands_that_are_none(refuse, arguments):
    assert "--help" in refuse(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [
        ["reconstruct", "--tokenizer", "@other-shape", "@pictures/0.png", "--out", "out"],
        ["ask", "--model", "@mllm", "--image", "@pictures/0.png", "--question", "what? " * 10_000],
        ["train", "pixel", "--config", "@pixel.yaml", "tokenizer=@cut"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_library_speaks_before_the_sentence(place, tmp_path, arguments):
    filled = [argument.replace("@", f"{place}/") for argument in arguments]
    root = str(Path(cli.__file__).parents[1])
    finished = subprocess.run(
        [sys.executable, "-m", "semhitok", *filled],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 2, finished.stderr
    assert finished.stdout == ""
    assert finished.stderr.startswith("semhitok: error: ")
    assert finished.stderr.count("\n") == 1
