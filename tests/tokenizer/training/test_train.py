"""The four phases on 24 tiny images: what they train, what they leave, and exact resume."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from runtime.resume import run_lock
from runtime.settings import build_settings, load_settings, save_settings
from semhitok import main as cli
from tests.limits import largest_file
from tests.prepared import prepare_sources
from tokenizer.model.fingerprint import code_fingerprint
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS

NUM_STEPS = 6
SEMANTIC_PARTS = ("teacher.", "semantic_encoder.", "semantic_codebook.")


def training(num_steps=NUM_STEPS, **fields):
    return {
        "num_steps": num_steps,
        "global_batch_size": 8,
        "learning_rate": 5e-3,
        "warmup_steps": 2,
        "log_every": 1,
        "checkpoint_every": 2,
    } | fields


def run(phase, values):
    return train.train_phase(build_settings(PHASE_SETTINGS[phase], values, "the test"))


@pytest.fixture(scope="module")
def chain(prepared, model_fields, vision_fields, tmp_path_factory):
    """Every phase trained in turn: the model folder and config values of each."""
    root = tmp_path_factory.mktemp("chain")
    text = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    }
    common = {"data": str(prepared), "training": training()}
    values = {
        "teacher": {"vision": vision_fields, "text": text, "vocab_size": 300},
        "semantic": {"teacher": str(root / "teacher" / "model"), "model": model_fields},
        "pixel": {"tokenizer": str(root / "semantic" / "model")},
        "decoder": {"tokenizer": str(root / "pixel" / "model")},
    }
    for phase, own in values.items():
        own |= common | {"out": str(root / phase)}
        assert run(phase, own) == root / phase / "model"
    return root, values


@pytest.fixture(scope="module")
def models(chain):
    root, _ = chain
    names = ("semantic", "pixel", "decoder")
    return {name: load_tokenizer(root / name / "model").eval() for name in names}


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def test_each_phase_writes_model_config_environment_and_metrics(chain):
    root, values = chain
    for phase in values:
        names = {path.name for path in (root / phase).iterdir()}
        files = {"config.yaml", "environment.json", "finished.json", "metrics.jsonl"}
        assert names == {"model", *files}
        config = load_settings(PHASE_SETTINGS[phase], root / phase / "config.yaml")
        assert config == build_settings(PHASE_SETTINGS[phase], values[phase], "the test")
        steps = [record["step"] for record in read_metrics(root / phase)]
        assert steps == list(range(1, NUM_STEPS + 1))
        assert not list((root / phase).rglob("*.bin"))


def test_the_semantic_codebook_is_bit_identical_after_the_pixel_and_decoder_phases(models):
    before = models["semantic"].semantic_codebook.codes
    assert torch.equal(models["pixel"].semantic_codebook.codes, before)
    assert torch.equal(models["decoder"].semantic_codebook.codes, before)


def test_everything_that_makes_semantic_codes_is_left_by_the_later_phases(chain):
    root, _ = chain
    before, after = weights(root / "semantic/model"), weights(root / "decoder/model")
    names = [name for name in before if name.startswith(SEMANTIC_PARTS)]
    assert len(names) > 20
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_the_semantic_codes_of_all_images_stay_the_same(models, all_images):
    before = models["semantic"].semantic_codes(all_images)
    assert torch.equal(models["pixel"].semantic_codes(all_images), before)
    assert torch.equal(models["decoder"].semantic_codes(all_images), before)
    assert len(before.unique()) > 1  # else equality would say nothing


def test_the_decoder_phase_changes_no_code_and_only_the_enhance_decoder(chain, models, all_images):
    root, _ = chain
    before = models["pixel"].encode(all_images)
    after = models["decoder"].encode(all_images)
    assert torch.equal(after.flat, before.flat)
    assert len(before.pixel.unique()) > 1
    pixel, decoder = weights(root / "pixel/model"), weights(root / "decoder/model")
    changed = {name for name in pixel if not torch.equal(pixel[name], decoder[name])}
    assert changed
    assert all(name.startswith("enhance_decoder.") for name in changed)


def test_the_pixel_phase_trains_encoder_sub_codebooks_and_decoder_alone(chain):
    root, _ = chain
    semantic, pixel = weights(root / "semantic/model"), weights(root / "pixel/model")
    changed = {name.split(".")[0] for name in pixel if not torch.equal(pixel[name], semantic[name])}
    assert changed == {"pixel_encoder", "pixel_sub_codebooks", "decoder"}


def test_the_teacher_of_the_tokenizer_is_the_trained_one(chain):
    root, _ = chain
    teacher, model = weights(root / "teacher/model"), weights(root / "semantic/model")
    names = [name for name in model if name.startswith("teacher.")]
    assert names
    for name in names:
        assert torch.equal(model[name], teacher[name.replace("teacher.", "vision_model.", 1)])


def test_only_the_decoder_phase_switches_to_the_enhance_decoder(models):
    flags = [models[name].config.use_enhance_decoder for name in ("semantic", "pixel", "decoder")]
    assert flags == [False, False, True]


def test_the_fingerprint_of_the_codes_outlives_the_decoder_phase_only(models):
    prints = {name: code_fingerprint(model) for name, model in models.items()}
    assert prints["decoder"] == prints["pixel"] != prints["semantic"]


@pytest.mark.parametrize("phase", ["teacher", "semantic", "pixel", "decoder"])
def test_the_loss_falls(chain, phase, tmp_path):
    _, values = chain
    run(
        phase,
        values[phase] | {"out": str(tmp_path), "training": training(30, checkpoint_every=100)},
    )
    losses = [record["loss"] for record in read_metrics(tmp_path)]
    assert sum(losses[-5:]) < sum(losses[:5])


def interrupted(monkeypatch, phase, values, after_steps):
    """Run a phase that dies in the middle of a step, past its last checkpoint."""

    class Killed(Exception):
        pass

    real = train.Progress.update

    def update(self, n=1, **shown):
        real(self, n, **shown)
        if self._bar.desc == phase and n and self._bar.n == after_steps:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.Progress, "update", update)
        run(phase, values)


@pytest.mark.parametrize("phase", ["teacher", "semantic", "pixel", "decoder"])
def test_a_resumed_run_ends_in_the_same_bits_as_an_uninterrupted_one(
    chain, phase, tmp_path, monkeypatch
):
    root, values = chain
    config = values[phase] | {"out": str(tmp_path / phase)}
    interrupted(monkeypatch, phase, config, after_steps=5)  # one step past the checkpoint
    assert (tmp_path / phase / "checkpoint.pt").is_file()
    torch.manual_seed(123)  # a fresh process has another random state
    run(phase, config)
    expected, resumed = weights(root / phase / "model"), weights(tmp_path / phase / "model")
    assert expected.keys() == resumed.keys()
    different = [name for name in expected if not torch.equal(expected[name], resumed[name])]
    assert different == []
    assert not (tmp_path / phase / "checkpoint.pt").exists()
    keys = ("step", "loss", "learning_rate")
    logs = [read_metrics(folder / phase) for folder in (root, tmp_path)]
    first, second = ([{key: r[key] for key in keys} for r in records] for records in logs)
    assert first == second


def test_a_run_resumed_with_other_settings_is_refused(chain, tmp_path, monkeypatch):
    _, values = chain
    config = values["semantic"] | {"out": str(tmp_path)}
    interrupted(monkeypatch, "semantic", config, after_steps=3)
    saved = (tmp_path / "config.yaml").read_text()
    changed = config | {"cosine_weight": 0.5}
    with pytest.raises(UserError, match=r"checkpoint.pt .* another cosine_weight") as refusal:
        run("semantic", changed)
    assert "\n" not in str(refusal.value)
    assert (tmp_path / "config.yaml").read_text() == saved


def test_a_checkpoint_of_another_phase_is_refused(chain, tmp_path, monkeypatch):
    _, values = chain
    interrupted(monkeypatch, "semantic", values["semantic"] | {"out": str(tmp_path)}, after_steps=3)
    with pytest.raises(UserError, match=r"written by another phase .* another `out` folder"):
        run("pixel", values["pixel"] | {"out": str(tmp_path)})


def test_a_damaged_checkpoint_is_refused(chain, tmp_path, monkeypatch):
    _, values = chain
    config = values["semantic"] | {"out": str(tmp_path)}
    interrupted(monkeypatch, "semantic", config, after_steps=3)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"checkpoint.pt .* delete"):
        run("semantic", config)


def test_a_batch_that_the_ranks_cannot_share_is_refused(chain, tmp_path, monkeypatch):
    _, values = chain
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 3)
    with pytest.raises(UserError, match=r"8 does not divide over 3 ranks"):
        run("semantic", values["semantic"] | {"out": str(tmp_path)})


def test_a_teacher_needs_captions(chain, image_folder, tmp_path):

    _, values = chain
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(image_folder / "00.png", bare)
    data = prepare_sources(bare, tmp_path / "data")
    with pytest.raises(UserError, match="no captions"):
        run("teacher", values["teacher"] | {"data": str(data), "out": str(tmp_path / "out")})


def test_images_without_captions_and_captions_that_are_cut_are_counted(
    chain, image_folder, tmp_path, capsys
):
    _, values = chain
    few = tmp_path / "few"
    few.mkdir()
    for number in range(8):
        shutil.copy(image_folder / f"{number:02d}.png", few)
    for number in range(5):
        text = "a square " * (20 if number < 2 else 1)
        (few / f"{number:02d}.txt").write_text(text + "\n")
    data = prepare_sources(few, tmp_path / "data")
    capsys.readouterr()
    run("teacher", values["teacher"] | {"data": str(data), "out": str(tmp_path / "out")})
    shown = capsys.readouterr().err
    assert "3 of 8 images have no caption" in shown
    assert "2 of 8 images have a caption of more than 8 tokens, which is cut" in shown


@pytest.mark.parametrize(
    ("section", "fields", "message"),
    [
        ("vision", {"hiden_size": 16}, r"vision\.hiden_size .* hidden_size"),
        ("text", {"num_layers": 1}, r"text\.num_layers .* "),
        ("vision", {"num_attention_heads": 3}, r"heads|divisible"),
    ],
)
def test_teacher_sections_that_do_not_fit_are_refused(chain, section, fields, message, tmp_path):
    _, values = chain
    own = values["teacher"]
    with pytest.raises(UserError, match=message):
        run("teacher", own | {section: own[section] | fields, "out": str(tmp_path)})


def test_the_command_reads_yaml_and_overrides(chain, tmp_path):
    _, values = chain
    config = build_settings(PHASE_SETTINGS["decoder"], values["decoder"], "the test")
    file = save_settings(config, tmp_path / "decoder.yaml")

    overrides = [f"out={tmp_path / 'out'}", "training.num_steps=1"]
    assert cli.main(["train", "decoder", "--config", str(file), *overrides]) == 0
    folder = tmp_path / "out" / "model"
    assert json.loads((folder / "config.json").read_text())["model_type"] == "semhitok"
    assert len(read_metrics(tmp_path / "out")) == 1


def test_a_finished_run_stays_unless_it_is_asked_to_start_again(chain, tmp_path, capsys):
    _, values = chain
    own = values["decoder"] | {"out": str(tmp_path), "training": training(2)}
    folder = run("decoder", own)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert run("decoder", own) == folder
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert "holds the finished run of these settings" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"another training\.num_steps; .*overwrite=true"):
        run("decoder", own | {"training": training(3)})
    with pytest.raises(UserError, match=r"finished\.json was written by another phase"):
        run("pixel", values["pixel"] | {"out": str(tmp_path)})
    run("decoder", own | {"training": training(3), "overwrite": True})
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3]


def test_a_folder_that_another_run_is_writing_to_is_refused(chain, tmp_path):
    _, values = chain
    out = tmp_path / "run"
    with run_lock(out), pytest.raises(UserError, match=r"another run .* is writing to"):
        run("decoder", values["decoder"] | {"out": str(out)})
    assert not out.exists()


def test_an_old_start_is_dropped_where_the_run_shall_overwrite(chain, tmp_path, monkeypatch):
    _, values = chain
    config = values["semantic"] | {"out": str(tmp_path)}
    interrupted(monkeypatch, "semantic", config, after_steps=3)
    changed = config | {"cosine_weight": 0.5, "overwrite": True}
    run("semantic", changed)
    assert [record["step"] for record in read_metrics(tmp_path)] == list(range(1, NUM_STEPS + 1))


def test_a_full_disk_is_one_sentence_and_the_run_resumes(chain, tmp_path):
    root, values = chain
    own = values["semantic"] | {"out": str(tmp_path / "semantic")}
    with largest_file(60_000), pytest.raises(UserError, match=r"cannot write .*checkpoint\.pt"):
        run("semantic", own)
    late = own | {"out": str(tmp_path / "late"), "training": training(checkpoint_every=100)}
    with (
        largest_file(60_000),
        pytest.raises(UserError, match=r"cannot write .*late/model: .*space"),
    ):
        run("semantic", late)
    assert not list(tmp_path.rglob("*.tmp")) and not list(tmp_path.rglob("*unfinished*"))
    expected, found = weights(root / "semantic" / "model"), weights(run("semantic", own))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_log_that_cannot_be_written_is_one_sentence(chain, tmp_path):
    _, values = chain
    own = values["decoder"] | {"out": str(tmp_path), "training": training(checkpoint_every=100)}
    with largest_file(3_500), pytest.raises(UserError, match=r"cannot write .*metrics\.jsonl"):
        run("decoder", own | {"training": own["training"] | {"num_steps": 100}})


def test_damaged_bytes_in_a_checkpoint_are_noticed(chain, tmp_path, monkeypatch):
    _, values = chain
    config = values["semantic"] | {"out": str(tmp_path)}
    interrupted(monkeypatch, "semantic", config, after_steps=3)
    path = tmp_path / "checkpoint.pt"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"checkpoint\.pt is damaged"):
        run("semantic", config)


def test_data_without_images_are_refused(chain, prepared, tmp_path):
    _, values = chain
    manifest = json.loads((prepared / "manifest.json").read_text())
    manifest |= {"shards": [], "counts": manifest["counts"] | {"images": 0, "records": 0}}
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    for phase in ("semantic", "pixel"):
        own = values[phase] | {"data": str(tmp_path / "data"), "out": str(tmp_path / "out")}
        with pytest.raises(UserError, match="has no images to train on"):
            run(phase, own)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("phase", "fields", "message"),
    [
        ("semantic", {"model": {"num_semantic_codes": 10**12}}, r"weights of the model would take"),
        ("pixel", {"training": training(global_batch_size=10**9)}, r"training with 1000000000 im"),
        ("semantic", {"training": training(max_shift=32)}, r"max_shift 32 moves images of 32 pix"),
        (
            "pixel",
            {"loss": {"adversarial": {"discriminator": "patchgan", "start_step": 10_000}}},
            r"needs images of at least 24 pixels a side, not 16",
        ),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(
    chain, model_fields, tiny_model, tmp_path, phase, fields, message
):
    _, values = chain
    own = values[phase] | {"out": str(tmp_path / "out")}
    if "model" in fields:
        fields = {"model": model_fields | fields["model"]}
    if "loss" in fields:
        save_tokenizer(tiny_model(image_size=16), tmp_path / "small")
        own["tokenizer"] = str(tmp_path / "small")
    with pytest.raises(UserError, match=message):
        run(phase, own | fields)
    assert not (tmp_path / "out").exists()
