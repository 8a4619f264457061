"""Every command from a folder of an odd name, beside files that are named like our packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from semhitok.commands import COMMANDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]


@pytest.fixture(params=["a b, c #1 [x]", "images=7", "2026-11-30"])
def home(request, tmp_path) -> Path:
    """A user's folder, in which importing anything of our names from it would end the program."""
    home = tmp_path / request.param
    home.mkdir()
    for name in ("tokenizer", "data_pipelines", "benchmarks", "yaml", "pydantic"):
        (home / f"{name}.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    for name in ("eval", "mllm", "runtime", "configs", "semhitok"):
        (home / name).mkdir()
        if name not in ("configs", "semhitok"):
            (home / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    (home / "my images, #2").mkdir()
    for number in range(3):
        path = home / "my images, #2" / f"{number}.png"
        Image.effect_noise((16, 16), 50 + number).convert("RGB").save(path)
        path.with_suffix(".txt").write_text("noise\n")
    return home


def semhitok(home: Path, *words: str) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", "semhitok", *words],
        cwd=home,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, (words, finished.stderr[-2000:])
    return finished.stdout


def test_commands_work_there(home):
    assert "wrote" in semhitok(home, "prepare", "folder:my images, #2", "--out", "out, #3")
    assert "wrote" in semhitok(home, "data", "inspect", "out, #3", "--out", "a, b.html")
    assert (home / "a, b.html").is_file()
    shown = semhitok(home, "data", "images", "--data", "out, #3", "--out", "[back]")
    assert "wrote [back]" in shown and len(list((home / "[back]").iterdir())) == 3


def test_every_help_is_shown_there(tmp_path, home):
    if home.name != "2026-11-30":  # once is enough
        pytest.skip("the same as in another folder")
    for name in COMMANDS:
        assert f"semhitok {name}" in semhitok(home, *name.split(), "--help")
