"""Phases of a tiny tokenizer with everything on, for the tests of training."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from runtime.settings import build_settings
from tokenizer.training import train
from tokenizer.training.settings import PHASE_SETTINGS

TRAINING = {
    "num_steps": 6,
    "global_batch_size": 8,
    "learning_rate": 5e-3,
    "warmup_steps": 2,
    "log_every": 1,
    "checkpoint_every": 2,
}
FULL = TRAINING | {"micro_batch_size": 3, "ema_decay": 0.7, "max_shift": 2, "schedule": "constant"}
ADVERSARIAL = {
    "discriminator": "patchgan",
    "width": 4,
    "num_layers": 1,
    "weight": 0.5,
    "start_step": 1,
    "warmup_steps": 3,
    "lecam_weight": 0.1,
    "augment_probability": 0.5,
}
PLAYS = ("pixel", "decoder", "joint")  # against a discriminator
EVERY_PHASE = ("teacher", "semantic", *PLAYS)


def run(phase, values):
    return train.train_phase(build_settings(PHASE_SETTINGS[phase], values, "the test"))


def weights(folder):
    return load_file(Path(folder) / "model.safetensors")


def killed(monkeypatch, phase, values, after_steps):
    """Run a phase that dies in the middle of a step, past its last checkpoint."""

    class Killed(Exception):
        pass

    real = train.TrainStep.__call__

    def call(self, step, batch):
        if step == after_steps:
            raise Killed
        return real(self, step, batch)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(train.TrainStep, "__call__", call)
        run(phase, values)


def rewrite(path, change):
    """Change the state in a checkpoint."""
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
