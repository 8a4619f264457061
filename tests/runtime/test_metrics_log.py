import builtins
import errno
import math

import numpy as np
import pytest

from runtime.errors import UserError
from runtime.metrics_log import MetricsLog, read_metrics


def write_steps(folder, steps, resume_step=None):
    with MetricsLog(folder, resume_step=resume_step) as log:
        for step in steps:
            log.write(step, loss=np.float32(step / 2))


def test_what_is_written_is_read_back(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, loss=0.5, count=3)
        log.write(2, **{"vqa/accuracy": np.float64(0.25)})
        assert len(read_metrics(tmp_path)) == 2  # readable while the run is going
    expected = [{"step": 1, "loss": 0.5, "count": 3}, {"step": 2, "vqa/accuracy": 0.25}]
    assert read_metrics(tmp_path / "metrics.jsonl") == expected


def test_resuming_drops_the_steps_that_will_be_run_again(tmp_path):
    write_steps(tmp_path, [1, 2, 3, 4])
    write_steps(tmp_path, [3, 4, 5], resume_step=2)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_resuming_drops_a_half_written_last_line(tmp_path):
    write_steps(tmp_path, [1, 2])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 3, "lo')
    assert len(read_metrics(tmp_path)) == 2
    write_steps(tmp_path, [4], resume_step=3)
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 4]


def test_a_new_run_starts_a_new_log(tmp_path):
    write_steps(tmp_path, [1, 2])
    write_steps(tmp_path, [1])
    assert len(read_metrics(tmp_path)) == 1


def test_a_diverged_loss_stays_visible(tmp_path):
    with MetricsLog(tmp_path) as log:
        log.write(1, loss=float("nan"))
    assert math.isnan(read_metrics(tmp_path)[0]["loss"])


def test_a_broken_line_before_the_last_is_named(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnoise\n{"step": 2}\n')
    with pytest.raises(UserError, match="line 2"):
        read_metrics(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="no such metrics file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    write_steps(tmp_path, [1])
    assert list(tmp_path.iterdir()) == []


def test_missing_tensorboard_says_how_to_get_it(tmp_path, monkeypatch):
    real_import = builtins.__import__

    def without_tensorboard(name, *args, **kwargs):
        if name == "torch.utils.tensorboard":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_tensorboard)
    with pytest.raises(UserError, match="pip install"):
        MetricsLog(tmp_path, tensorboard=True)


def test_a_place_that_tensorboard_cannot_use_is_one_sentence(tmp_path):
    (tmp_path / "tensorboard").write_text("a file")
    with pytest.raises(UserError, match=r"cannot write .*tensorboard: .* set tensorboard to false"):
        MetricsLog(tmp_path, tensorboard=True)


def test_events_that_cannot_be_written_are_one_sentence_and_the_numbers_stay(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, tensorboard=True)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log._board, "add_scalar", full)
    with pytest.raises(UserError, match="tensorboard: No space left on device; free"), log:
        log.write(1, loss=2.0)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}]
