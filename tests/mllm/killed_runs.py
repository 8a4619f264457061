"""One run killed again and again, each time in a process of its own, by a real SIGKILL.

python -m tests.mllm.killed_runs CONFIG NUM_KILLS SEED

Forked from one process that has imported everything, so that a life costs a second. Each life draws
how many steps it has and where it ends: inside a step, while a checkpoint is being written, between
its two marks, or while the one before it is being deleted.
"""

import json
import os
import random
import signal
import sys
from pathlib import Path

import deepspeed  # noqa: F401 - the Trainer would, anew in each life

import mllm.training.checkpoints
import mllm.training.train
from mllm.phase.settings import PhaseSettings
from mllm.training.train import train_mllm
from mllm.training.trainer import UnifiedTrainer
from runtime.settings import load_settings

PLACES = ("step", "writing", "between the marks", "deleting")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place, num_steps):
    """Let this process die at `place`, once it has taken `num_steps` steps."""
    compute, steps = UnifiedTrainer.compute_loss, []

    def count(self, *args, **kwargs):
        steps.append(1)
        if place == "step" and len(steps) > num_steps:
            die()
        return compute(self, *args, **kwargs)

    def after(function, *, before=False):
        def call(*args, **kwargs):
            if before and len(steps) >= num_steps:
                die()
            result = function(*args, **kwargs)
            if not before and len(steps) >= num_steps:
                die()
            return result

        return call

    UnifiedTrainer.compute_loss = count
    if place == "writing":
        UnifiedTrainer._save_rng_state = after(UnifiedTrainer._save_rng_state)
    elif place == "between the marks":
        mllm.training.checkpoints.write_json = after(mllm.training.checkpoints.write_json)
    elif place == "deleting":
        mllm.training.checkpoints.shutil.rmtree = after(
            mllm.training.checkpoints.shutil.rmtree, before=True
        )


def live(config, place=None, num_steps=0):
    """Train in a process of its own; the signal that killed it, or 0."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            if place is not None:
                arm(place, num_steps)
            train_mllm(config)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status)
    assert os.WEXITSTATUS(status) == 0, "the run failed by itself"
    return 0


def main(path, num_kills, seed):
    config = load_settings(PhaseSettings, path)
    rng = random.Random(seed)
    deaths = []
    for number in range(num_kills):
        place = PLACES[number % len(PLACES)] if number < len(PLACES) else rng.choice(PLACES)
        num_steps = rng.randint(1, 4)
        assert live(config, place, num_steps) == signal.SIGKILL, (place, num_steps)
        last = mllm.training.checkpoints.newest(config.out / "checkpoints")
        deaths.append((place, num_steps, 0 if last is None else last.step))
    assert live(config) == 0
    print("DEATHS", json.dumps(deaths))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
