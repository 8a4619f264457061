"""The commands that are declared by their settings: examples, help texts, and where they live."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import semhitok
from semhitok import main as cli
from semhitok.command import load
from semhitok.commands import COMMANDS

ROOT = Path(semhitok.__file__).parents[1]
HEAVY = {"torch", "transformers", "numpy", "PIL", "datasets", "matplotlib", "jinja2"}


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """An empty stand-in for what `semhitok quickstart` leaves, in the working directory."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "quickstart"
    for folder in ("data/train", "data/test", "codes/train", "images", "eval/reconstruction"):
        (run / folder).mkdir(parents=True)
    for folder in ("decoder/model", "mllm/model"):
        (run / folder).mkdir(parents=True)
        (run / folder / "config.json").write_text("{}")
    return run


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.startswith("eval ")])
def test_every_example_parses_after_the_quickstart(name, quickstart):
    program, *argv = shlex.split(COMMANDS[name].example)
    assert program == "semhitok"
    command, settings = cli.parse(argv)
    assert command is COMMANDS[name] and isinstance(settings, load(command.settings))


@pytest.mark.parametrize("name", COMMANDS)
def test_every_function_is_there(name):
    module, _, function = COMMANDS[name].function.partition(":")
    path = (ROOT / module.replace(".", "/")).with_suffix(".py")
    assert f"\ndef {function}(" in path.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_every_setting_and_imports_nothing_heavy(name):
    code = (
        "import sys; from semhitok.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        f"print({HEAVY!r} & set(sys.modules))"
    )
    arguments = [sys.executable, "-c", code, *name.split(), "--help"]
    finished = subprocess.run(arguments, cwd=ROOT, check=True, capture_output=True, text=True)
    *shown, heavy = finished.stdout.splitlines()
    assert heavy == "set()"
    text = " ".join(" ".join(shown).split())
    assert COMMANDS[name].example in text


def test_counts_start_at_one(quickstart, capsys):
    run = "eval vqa --model runs/quickstart/mllm/model --data runs/quickstart/data/test --out o"
    assert cli.main([*run.split(), "--batch-size", "0"]) == 2
    assert "--batch-size must be greater than 0" in capsys.readouterr().err
