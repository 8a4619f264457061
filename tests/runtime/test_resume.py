"""One run at a time in a folder, and a finished one stays."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest
from pydantic import PositiveInt

from runtime.errors import UserError
from runtime.resume import (
    file_lock,
    is_finished,
    mark_finished,
    open_output,
    open_run,
    refuse_other_settings,
    run_lock,
)
from runtime.run_folder import start_run
from runtime.settings import Settings, to_dict
from runtime.value_types import ModelFolder


class Inner(Settings):
    steps: PositiveInt = 1


class Run(Settings):
    out: Path
    overwrite: bool = False
    inner: Inner = Inner()
    model: ModelFolder | None = None


def hold(folder, connection):
    with run_lock(folder):
        connection.send(os.getpid())
        connection.recv()


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock of `tmp_path / "run"`."""
    ours, theirs = multiprocessing.Pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=hold, args=(tmp_path / "run", theirs))
    process.start()
    assert ours.recv() == process.pid
    yield process, ours
    process.kill()
    process.join()


def test_a_second_run_in_a_folder_is_refused_by_the_first_ones_name(holder, tmp_path):
    process, _ = holder
    (tmp_path / "run" / "metrics.jsonl").write_text("of the first\n")
    with (
        pytest.raises(UserError, match=rf"another run \(process {process.pid} on .* is writing to"),
        run_lock(tmp_path / "run"),
    ):
        raise AssertionError("two runs")
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == "of the first\n"


@pytest.mark.parametrize("end", ["done", "killed"])
def test_the_lock_ends_with_its_process(holder, tmp_path, end):
    process, ours = holder
    if end == "killed":
        os.kill(process.pid, signal.SIGKILL)
    else:
        ours.send("go")
    process.join()
    with run_lock(tmp_path / "run"):
        assert (tmp_path / "run" / ".lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "run").exists()  # nothing was written


def test_a_run_that_is_refused_leaves_no_folder_and_others_keep_theirs(tmp_path):
    with pytest.raises(ZeroDivisionError), run_lock(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert not (tmp_path / "a" / "b").exists()
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "notes.txt").write_text("mine")
    with run_lock(tmp_path / "kept"):
        pass
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["notes.txt"]


def test_only_rank_0_locks(holder, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with run_lock(tmp_path / "run"):
        pass


def test_a_finished_run_is_told_and_other_settings_are_refused(tmp_path, capsys):
    settings = Run(out=tmp_path)
    assert not is_finished(tmp_path, settings)
    mark_finished(tmp_path, settings)
    assert is_finished(tmp_path, settings)
    assert "overwrite=true repeats it" in capsys.readouterr().err
    moved = Run(out=tmp_path / "elsewhere", overwrite=True)
    assert is_finished(tmp_path, moved)
    with pytest.raises(UserError, match=r"another inner\.steps; .*overwrite=true"):
        is_finished(tmp_path, Run(out=tmp_path, inner=Inner(steps=2)))
    with open_run(tmp_path, settings, None) as finished:
        assert finished
    deleted = []
    with open_run(tmp_path, settings, lambda: deleted.append("checkpoints")) as finished:
        assert not finished and deleted == ["checkpoints"]
    assert not is_finished(tmp_path, settings)


def test_what_a_run_has_read_may_be_gone(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    settings = Run(out=tmp_path, model=model)
    then = to_dict(settings) | {"model": str(tmp_path / "gone")}
    with pytest.raises(UserError, match="another model"):
        refuse_other_settings(tmp_path / "c.pt", settings, then)
    with pytest.raises(UserError, match=r"another phase or version .*unknown key"):
        refuse_other_settings(tmp_path / "c.pt", settings, then | {"colour": 1})
    del then["inner"]  # older than the setting
    refuse_other_settings(tmp_path / "c.pt", settings, then | {"model": str(model)})


def test_a_file_in_use_is_refused_and_its_neighbours_are_not(tmp_path):
    (tmp_path / "a.jsonl").write_text("mine")
    with file_lock(tmp_path / "a.jsonl"), file_lock(tmp_path / "b.jsonl"):
        refused = pytest.raises(UserError, match=r"writing to .*a\.jsonl; .* give another file")
        with refused, file_lock(tmp_path / "a.jsonl"):
            raise AssertionError("two runs")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_finished_evaluation_of_other_settings_stays(tmp_path):
    settings, other = Run(out=tmp_path), Run(out=tmp_path, inner=Inner(steps=2))
    for each in (settings, other):  # nothing has finished yet
        with open_output(tmp_path, each):
            start_run(tmp_path, each, "run")
    (tmp_path / "summary.json").write_text("{}")
    with open_output(tmp_path, other):
        pass
    message = rf"another inner\.steps; .* name another --out, or delete {tmp_path}$"
    with pytest.raises(UserError, match=message), open_output(tmp_path, settings):
        pass
