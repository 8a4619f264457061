"""Two processes against one, on CPUs."""

import pytest
import torch

from runtime.metrics_log import read_metrics
from runtime.settings import build_settings, save_settings
from tests.mllm.tiny import launch
from tokenizer.saved.model_folder import load_tokenizer, save_tokenizer
from tokenizer.training import train
from tokenizer.training.settings import PixelPhaseSettings, SemanticPhaseSettings


def train_on_one_and_two(settings_class, values, folder):
    """Settings of a phase on one process and on two ranks, and how the ranks ended."""
    one, two = (
        build_settings(settings_class, values | {"out": str(folder / name)}, "the test")
        for name in ("one", "two")
    )
    train.train_phase(one)
    save_settings(two, folder / "two.yaml")
    finished = launch(2, "train", two.phase, "--config", str(folder / "two.yaml"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    return one, two, finished


@pytest.mark.slow
def test_two_ranks_end_where_one_process_ends(prepared, tiny_model, model_fields, tmp_path):
    tiny_model().teacher.save_pretrained(tmp_path / "teacher")
    values = {
        "data": str(prepared),
        "teacher": str(tmp_path / "teacher"),
        "model": model_fields,
        "codebook": {"kmeans_images": 16},
        "training": {"num_steps": 6, "global_batch_size": 8, "learning_rate": 5e-3},
    }
    one, two, finished = train_on_one_and_two(SemanticPhaseSettings, values, tmp_path)
    assert finished.stdout.count("wrote ") == 1

    start = tiny_model().state_dict()
    models = [load_tokenizer(config.out / "model").state_dict() for config in (one, two)]
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], atol=1e-4, rtol=0, msg=name)
    # Against vacuity: ranks that trained alone on half batches would be this far off.
    moved = "semantic_codebook.codes"
    assert (models[0][moved] - start[moved]).abs().max() > 0.1


@pytest.mark.slow
def test_two_ranks_play_the_adversarial_game_of_one_process(prepared, tiny_model, tmp_path):
    save_tokenizer(tiny_model(), tmp_path / "tokenizer")
    adversarial = {
        "discriminator": "patchgan",
        "width": 8,
        "num_layers": 1,
        "learning_rate": 1e-3,
        "start_step": 1,
        "lecam_weight": 0.1,
        "augment_probability": 0.5,
    }
    training = {"num_steps": 6, "global_batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.5}
    values = {
        "data": str(prepared),
        "tokenizer": str(tmp_path / "tokenizer"),
        "codebook": {"kmeans_images": 16},
        "training": training | {"log_every": 1},
        "loss": {"adversarial": adversarial},
        "validation": {"data": str(prepared), "num_images": 11},
    }
    one, two, _ = train_on_one_and_two(PixelPhaseSettings, values, tmp_path)

    models = [load_tokenizer(config.out / "model").state_dict() for config in (one, two)]
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], atol=1e-4, rtol=0, msg=name)
    logs = [read_metrics(config.out) for config in (one, two)]
    # Of gradients averaged over ranks: equal at every step only if the discriminators are.
    names = ("grad_norm", "discriminator_grad_norm", "adversarial_weight", "validation_psnr")
    for name in names:
        ours, theirs = ([r[name] for r in records if name in r] for records in logs)
        assert ours and ours == pytest.approx(theirs, rel=1e-3), name
