"""The wheel, used in a folder that holds other things by the names of our packages."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
COLOURS = ("red", "green", "blue", "yellow")
FEW_STEPS = [
    f"steps.{phase}.training.num_steps=4" for phase in ("teacher", "semantic", "pixel", "decoder")
] + [
    "steps.semantic.codebook.kmeans_images=16",
    "steps.pixel.codebook.kmeans_images=16",
    "steps.mllm.num_steps=4",
    "steps.mllm.global_batch_size=4",
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, ROOT], check=True, cwd=folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """The wheel's content in a folder of its own, as pip would put it among the packages."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
    return folder


@pytest.fixture
def home(tmp_path) -> Path:
    """A user's folder, with files of the names that our packages have."""
    (tmp_path / "tokenizer.py").write_text("raise SystemExit('the wrong tokenizer')\n")
    for name in ("eval", "mllm", "runtime", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"raise SystemExit('the wrong {name}')\n")
    (tmp_path / "images").mkdir()
    for number in range(24):
        colour = COLOURS[number % 4]
        image = Image.new("RGB", (80, 64), "white")
        ImageDraw.Draw(image).ellipse((10 + number, 10, 40 + number, 40), fill=colour)
        image.save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text(f"a {colour} ball on white\n")
    return tmp_path


def semhitok(installed: Path, home: Path, *arguments: str, launcher: tuple[str, ...] = ()) -> str:
    command = [sys.executable, *launcher, "-m", "semhitok", *arguments]
    environment = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr[-3000:]
    return finished.stdout


def test_it_holds_our_packages_every_config_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
    assert {name.split("/")[0] for name in names} == {
        "semhitok", "runtime", "data_pipelines", "tokenizer", "mllm", "eval",
    }  # fmt: skip
    configs = {str(p.relative_to(ROOT)) for p in (ROOT / "configs").rglob("*") if p.is_file()}
    shipped = {name.removeprefix("semhitok/") for name in names if "semhitok/configs/" in name}
    assert shipped == configs
    kinds = (".j2", ".css", ".html", ".yaml")
    folders = [ROOT / package for package in ("data_pipelines", "mllm", "eval")]
    data = [p for folder in folders for p in folder.rglob("*") if p.suffix in kinds]
    assert {str(path.relative_to(ROOT)) for path in data} <= set(names)


def test_a_captioned_folder_becomes_drawings_and_a_report(installed, home):
    arguments = ["run", "configs/recipes/captioned-folder.yaml", "--out", "mine", "--no-open"]
    shown = semhitok(installed, home, *arguments, *FEW_STEPS)
    assert "wrote mine/report.html" in shown
    assert len(list((home / "mine" / "drawn").glob("*.png"))) > 1
    page = (home / "mine" / "report.html").read_text()
    assert "ball on white" in page


def test_the_quickstart_runs(installed, home):
    # An untrained model would write the longest answer to each of 9,673 questions.
    short = ["vqa.max_new_tokens=1", "generation.seeds=1", "reconstruction.max_images=100"]
    few = [*FEW_STEPS, *(f"steps.eval-{setting}" for setting in short)]
    shown = semhitok(installed, home, "quickstart", "--no-open", *few)
    assert "wrote runs/quickstart/report.html" in shown


def test_torchrun_finds_our_packages(installed, home):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node", "1", "--standalone")
    (home / "teacher").mkdir()
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
    teacher = {"model_type": "siglip_vision_model", "image_size": 64, "patch_size": 8} | sizes
    (home / "teacher" / "config.json").write_text(json.dumps(teacher))
    shown = semhitok(installed, home, "describe", "--config",
                     "configs/quickstart/semantic.yaml", "teacher=teacher",
                     launcher=launcher)  # fmt: skip
    assert "pixel" in shown
