from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.files import read_json, write_text
from runtime.run_folder import make_folder, start_run
from runtime.settings import Settings, load_settings


class Training(Settings):
    seed: int = 7


class Config(Settings):
    data: Path = Path("somewhere")
    training: Training = Training()


def test_start_writes_the_resolved_config_and_the_environment(tmp_path):
    folder = start_run(tmp_path / "deep" / "run", Config(), "train teacher")
    assert load_settings(Config, folder / "config.yaml") == Config()
    record = read_json(folder / "environment.json")
    assert record["command"] == "train teacher"
    assert record["seed"] == 7
    assert record["cpu_count"] >= 1
    assert set(record) >= {"git", "python", "platform", "packages", "started"}
    assert "torch" in record["packages"]


def test_only_rank_0_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    folder = start_run(tmp_path / "run", Config(), "train teacher")
    assert list(folder.iterdir()) == []


def test_starting_again_keeps_what_the_run_wrote(tmp_path):
    start_run(tmp_path, {"seed": 1}, "first")
    write_text(tmp_path / "weights", "precious")
    start_run(tmp_path, {"seed": 2}, "second")
    assert (tmp_path / "weights").read_text() == "precious"
    assert read_json(tmp_path / "environment.json")["seed"] == 2


def test_a_file_in_the_way_is_a_user_error(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match="is a file, not a folder"):
            make_folder(path)
