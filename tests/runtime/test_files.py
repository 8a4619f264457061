import json
from pathlib import Path

import numpy as np
import pytest
import torch

from runtime import files
from runtime.errors import UserError
from runtime.files import (
    file_sha256,
    read_json,
    torch_could_not_write,
    write_json,
    write_text,
)
from tests.limits import largest_file


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


def test_torchs_own_words_of_a_full_disk_are_known(tmp_path):
    for size in (100, 1000, 100_000, 400_000):
        with (
            largest_file(size),
            pytest.raises((OSError, RuntimeError)) as told,
            open(tmp_path / "x.pt", "wb") as file,
        ):
            torch.save({"a": torch.rand(100_000)}, file)
        assert isinstance(told.value, OSError) or torch_could_not_write(told.value)
    assert not torch_could_not_write(RuntimeError("shapes differ"))
