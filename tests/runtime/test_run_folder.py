import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from runtime import files
from runtime.config import load_config
from runtime.errors import UserError
from runtime.run_folder import (
    RunDirectory,
    file_sha256,
    make_folder,
    read_json,
    write_json,
    write_text,
)


@dataclass
class Training:
    seed: int = 7


@dataclass
class Config:
    data: Path = Path("somewhere")
    training: Training = field(default_factory=Training)


def test_start_writes_the_resolved_config_and_the_environment(tmp_path):
    run = RunDirectory(tmp_path / "deep" / "run").start(Config(), "train teacher")
    assert load_config(Config, run.path / "config.yaml") == Config()
    record = read_json(run.path / "environment.json")
    assert record["command"] == "train teacher"
    assert record["seed"] == 7
    assert record["cpu_count"] >= 1
    assert set(record) >= {"git", "python", "platform", "packages", "started"}
    assert "torch" in record["packages"]


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    run = RunDirectory(tmp_path / "run").start(Config(), "train teacher")
    assert list(run.path.iterdir()) == []


def test_starting_again_keeps_what_the_run_wrote(tmp_path):
    run = RunDirectory(tmp_path).start({"seed": 1}, "first")
    write_text(run.path / "weights", "precious")
    run.start({"seed": 2}, "second")
    assert (run.path / "weights").read_text() == "precious"
    assert read_json(run.path / "environment.json")["seed"] == 2


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file, not a folder"):
            make_folder(path)


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = write_text(tmp_path / "a.txt", "old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(UserError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        write_text(tmp_path / "no" / "a.txt", "")


def test_json_is_standard_whatever_it_is_given(tmp_path):
    value = {"path": Path("a/b"), "nan": float("nan"), "array": np.array([1, 2]), 1: np.float32(2)}
    path = write_json(tmp_path / "a.json", value)
    expected = {"path": "a/b", "nan": None, "array": [1, 2], "1": 2.0}
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b'{\n"a": }', "line 2"), (b"\xff\xfe", "not UTF-8")],
)
def test_json_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        read_json(path)
    assert str(path) in str(caught.value)


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_sha256(tmp_path / "a") == expected
