import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from mllm.data.settings import MixtureSettings, TaskProportions
from mllm.init.build import init_mllm
from mllm.init.settings import InitSettings
from mllm.phase.settings import PhaseSettings
from mllm.saved.load import load_model, load_processor
from mllm.training.train import check_data, train_mllm
from runtime.errors import UserError
from runtime.metrics_log import read_metrics
from runtime.resume import run_lock
from runtime.settings import load_settings
from semhitok import main as cli
from tests.codes import extract
from tests.mllm.tiny import (
    REPOSITORY,
    TEXT_CONFIG,
    interrupt,
    losses_of,
    make_model,
    make_records,
    prepare_records,
    save_tiny_tokenizer,
    steady_metrics,
    write_phase,
)
from tokenizer.model.fingerprint import code_fingerprint


def weights(folder):
    return load_file(folder / "model.safetensors")


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A whole run of 12 steps."""
    out = tmp_path_factory.mktemp("finished")
    assert train_mllm(world.phase(out, checkpoint_every=5)) == out / "model"
    return out


def test_the_loss_falls_and_the_run_is_written(finished):
    lines = read_metrics(finished)
    assert [line["step"] for line in lines] == list(range(1, 13))
    names = {"step", "loss", "grad_norm", "learning_rate", "padding_fraction", "tokens_per_second"}
    names |= {"text_loss", "semantic_loss", "pixel_loss"}
    assert set(lines[0]) == names
    # Measured: from 45.9 to 21.5.
    assert sum(losses_of(finished)[-3:]) < 0.85 * sum(losses_of(finished)[:3])
    assert json.loads((finished / "sequences.json").read_text())["sequences"] == 48
    assert (finished / "config.yaml").is_file() and (finished / "environment.json").is_file()
    assert not (finished / "checkpoints").exists()
    assert not list(finished.glob(".*"))


def test_the_trained_folder_is_whole_and_holds_no_pickle(finished):
    model, processor = load_model(finished / "model"), load_processor(finished / "model")
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    suffixes = {path.suffix for path in (finished / "model").iterdir()}
    assert suffixes <= {".json", ".safetensors", ".jinja", ".model"}


def test_training_leaves_the_image_tokenizer_as_it_was(world, finished):
    before, after = weights(world.start), weights(finished / "model")
    assert before.keys() == after.keys()
    for name in before:
        frozen = name.startswith("image_tokenizer.")
        assert torch.equal(before[name], after[name]) == frozen, name
    models = [load_model(world.start), load_model(finished / "model")]
    assert len({code_fingerprint(model.image_tokenizer) for model in models}) == 1


def test_an_interrupted_run_ends_as_an_undisturbed_one(world, finished, tmp_path):
    config = world.phase(tmp_path / "run", checkpoint_every=5)
    interrupt(config)
    assert not (tmp_path / "run" / "model").exists()
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-5").is_dir()
    # Killed in the middle of the next checkpoint: its state, which comes last, is not there.
    half = tmp_path / "run" / "checkpoints" / "checkpoint-10"
    shutil.copytree(half.with_name("checkpoint-5"), half)
    (half / "trainer_state.json").unlink()

    with pytest.raises(UserError, match="by a run with another learning_rate, seed; give those"):
        train_mllm(config.model_copy(update={"learning_rate": 1.0, "seed": 5}))
    train_mllm(config)
    assert same(weights(tmp_path / "run" / "model"), weights(finished / "model"))
    assert steady_metrics(tmp_path / "run") == steady_metrics(finished)


def test_a_finished_run_stays_unless_it_is_asked_to_start_again(world, finished, tmp_path, capsys):
    out = shutil.copytree(finished, tmp_path / "moved")
    own = world.phase(out, checkpoint_every=5)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert train_mllm(own) == out / "model"
    assert "holds the finished run of these settings" in capsys.readouterr().err
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert before == after
    with pytest.raises(UserError, match=r"another num_steps; .*overwrite=true to start again"):
        train_mllm(own.model_copy(update={"num_steps": 2}))
    train_mllm(own.model_copy(update={"num_steps": 2, "overwrite": True}))
    assert len(losses_of(out)) == 2


def test_a_folder_that_another_run_is_writing_to_is_refused(world, tmp_path):
    out = tmp_path / "run"
    with run_lock(out), pytest.raises(UserError, match=r"another run .* is writing to"):
        train_mllm(world.phase(out))
    assert not out.exists()


def test_accumulation_changes_nothing_but_speed(world, finished, tmp_path):
    train_mllm(world.phase(tmp_path, micro_batch_size=1))
    # Measured: 4e-6 at a loss of 46.
    torch.testing.assert_close(losses_of(tmp_path), losses_of(finished), atol=1e-5, rtol=1e-5)


def test_another_seed_is_another_run(world, finished, tmp_path):
    train_mllm(world.phase(tmp_path, num_steps=2, seed=1))
    assert losses_of(tmp_path)[0] != losses_of(finished)[0]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"gradient_checkpointing": True}, {"num_workers": 1}])
def test_the_ways_to_save_memory_or_time_change_no_loss(world, finished, tmp_path, settings):
    train_mllm(world.phase(tmp_path, num_steps=3, warmup_steps=2, **settings))
    assert losses_of(tmp_path)[:2] == pytest.approx(losses_of(finished)[:2], rel=1e-5)


@pytest.mark.slow
def test_a_flat_head_trains_too(world, tmp_path, processor):
    make_model(world, "flat").save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    train_mllm(world.phase(tmp_path / "run", model=tmp_path / "start"))
    losses = losses_of(tmp_path / "run")
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])


def test_codes_of_another_tokenizer_are_refused(world, tmp_path):
    other = save_tiny_tokenizer(tmp_path / "tokenizer", seed=1)
    codes = extract(other, world.data, tmp_path / "codes")
    with pytest.raises(UserError, match="were made by another tokenizer than the one inside"):
        train_mllm(world.phase(tmp_path / "run", codes=codes))


def test_codes_of_images_of_the_same_names_are_refused(world, tmp_path):
    turned = [dataclasses.replace(r, image=make_records()[0].image) for r in make_records()]
    data = prepare_records(turned, tmp_path / "data")
    with pytest.raises(UserError, match="were extracted from other data than"):
        train_mllm(world.phase(tmp_path / "run", data=data))


def test_a_run_does_not_resume_with_codes_of_another_tokenizer(world, tmp_path):
    # Tokenizer, model and codes are all made anew under their old names; the checkpoint is not.
    folders = {name: tmp_path / name for name in ("start", "codes")}
    for name, folder in folders.items():
        shutil.copytree(getattr(world, name), folder)
    config = world.phase(
        tmp_path / "run", checkpoint_every=5, model=folders["start"], codes=folders["codes"]
    )
    interrupt(config)
    for folder in folders.values():
        shutil.rmtree(folder)
    other = save_tiny_tokenizer(tmp_path / "tokenizer", seed=1)
    extract(other, world.data, folders["codes"])
    init_mllm(
        InitSettings(
            tokenizer=other, out=folders["start"], text_config=dict(TEXT_CONFIG),
            text_data=[world.data], vocab_size=320,
        )
    )  # fmt: skip
    with pytest.raises(UserError, match="began with codes of another tokenizer fingerprint"):
        train_mllm(config)


def test_damaged_codes_are_refused(world, tmp_path):
    codes = tmp_path / "codes"
    shutil.copytree(world.codes, codes)
    shard = codes / "codes-00000.arrow"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(UserError, match=r"codes-00000\.arrow is damaged"):
        train_mllm(world.phase(tmp_path / "run", codes=codes))


def test_a_batch_that_does_not_divide_is_one_sentence(world, tmp_path):
    with pytest.raises(UserError, match="global_batch_size 4 is not a multiple of micro_batch"):
        train_mllm(world.phase(tmp_path, micro_batch_size=3))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model", "no such folder: .*nowhere"),
        ("data", "no such folder: .*nowhere"),
        ("codes", "no such folder: .*nowhere"),
        ("deepspeed", "no such file: .*nowhere"),
    ],
)
def test_a_path_to_nothing_is_one_sentence(world, tmp_path, setting, message):
    path = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    with pytest.raises(UserError, match=message):
        load_settings(PhaseSettings, path, [f"{setting}={tmp_path / 'nowhere'}"])


def test_deepspeed_without_a_launcher_is_one_sentence(world, tmp_path, monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    zero2 = REPOSITORY / "configs" / "deepspeed" / "zero2.json"
    with pytest.raises(UserError, match="needs a launcher, also for one process"):
        train_mllm(world.phase(tmp_path, deepspeed=zero2))


def test_the_command_reads_the_file_and_the_overrides(world, tmp_path):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    assert cli.main(["train", "mllm", "--config", str(config), "num_steps=2"]) == 0
    assert len(losses_of(tmp_path / "run")) == 2


def test_a_task_without_documents_is_told_from_the_manifest_alone(world, tmp_path):
    check_data(world.phase(tmp_path))
    mixture = MixtureSettings(proportions=TaskProportions(conversation=1.0))
    with pytest.raises(UserError, match=r"no record has a conversation; set mixture.proportions"):
        check_data(world.phase(tmp_path, mixture=mixture))
