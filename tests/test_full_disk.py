"""Commands that write, where nothing can be written: one sentence, nothing half, resumable."""

import tempfile
from pathlib import Path

import pytest

from semhitok import main as cli
from semhitok.commands import COMMANDS
from tests.every_command import ALIKE, LINES, SILENT, make_place, words
from tests.limits import largest_file

pytestmark = pytest.mark.slow

FIRST_ONLY = {"eval all": "it writes what the other evaluations write, and takes half a minute"}
UNWRITABLE = "/sys/semhitok"
"""Where not even root may write."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


@pytest.fixture
def said(place, tmp_path, monkeypatch, capsys):
    """Runs a command, and returns its exit code and the last line of stderr."""
    monkeypatch.chdir(tmp_path)

    def run(name: str, out: Path) -> tuple[int, str]:
        capsys.readouterr()
        code = cli.main([*name.split(), *words(LINES[name], place, out)])
        written = capsys.readouterr().err
        assert "Traceback" not in written
        return code, ["", *written.splitlines()][-1]

    return run


def test_every_command_that_writes_is_tried():
    assert LINES.keys() | SILENT | ALIKE.keys() == COMMANDS.keys()


@pytest.mark.parametrize("name", LINES)
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(name, said, tmp_path):
    def full(out: Path, size: int) -> None:
        out.mkdir(exist_ok=True)
        with largest_file(size):
            code, sentence = said(name, out)
        assert code == 2 and sentence.startswith("semhitok: error: "), sentence
        assert "free some space" in sentence, sentence
        assert str(out) in sentence or tempfile.gettempdir() in sentence, sentence
        left = {path.name for path in out.rglob("*") if path.name.endswith((".tmp", "unfinished"))}
        assert not left, left

    first = tmp_path / "first"
    full(first, 90)
    if name in FIRST_ONLY:
        return
    code, sentence = said(name, first)
    assert code == 0, sentence
    largest = max(path.stat().st_size for path in first.rglob("*") if path.is_file())
    last = tmp_path / "last"
    full(last, largest - 1)
    code, sentence = said(name, last)
    assert code == 0, sentence
    files = [{str(p.relative_to(f)) for p in f.rglob("*")} for f in (first, last)]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", LINES)
def test_a_place_that_cannot_be_written_is_one_sentence(name, said):
    code, sentence = said(name, Path(UNWRITABLE))
    assert code == 2 and sentence.startswith("semhitok: error: "), sentence
    assert UNWRITABLE in sentence, sentence
