"""The quickstart in miniature, and what README and help texts promise of its folder."""

import io
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from semhitok import main as cli
from semhitok.commands import COMMANDS

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
NUM_RECORDS = 60
SHORT = {
    "teacher": ["training.num_steps=4"],
    "semantic": ["training.num_steps=4", "codebook.kmeans_images=32"],
    "pixel": ["training.num_steps=4", "codebook.kmeans_images=32"],
    "decoder": ["training.num_steps=4"],
    "mllm": ["num_steps=4", "global_batch_size=4"],
    "../ablation/joint": ["training.num_steps=4", "codebook.kmeans_images=32"],
}
SUMMARY_KEYS = {
    "seconds",
    "peak_memory_gb",
    "vqa.accuracy",
    "vqa.open_accuracy",
    "vqa.question_only_baseline",
    "reconstruction.psnr",
    "reconstruction.ssim",
    "codebook.semantic_usage",
    "codebook.pixel_usage",
    "drawing.accuracy",
}


@pytest.fixture(scope="module", autouse=True)
def few_records() -> Iterator[None]:
    """easy-VQA, cut after its first records."""
    from data_pipelines.prepare import run as prepare
    from data_pipelines.sources.rows import Rows

    whole = prepare.open_source

    def cut(name: str):
        source = whole(name)
        return replace(source, records=Rows(NUM_RECORDS, source.records.read))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "open_source", cut)
        yield


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which `semhitok quickstart` ran, with the shipped configs and few steps."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(ROOT / "configs", home / "configs")
    for phase, overrides in SHORT.items():
        path = home / "configs" / "quickstart" / f"{phase}.yaml"
        text = path.read_text(encoding="utf-8")
        for override in overrides:
            key, value = override.split(".")[-1].split("=")
            text, found = re.subn(rf"(?m)^(\s*){key}:.*$", rf"\1{key}: {value}", text)
            assert found == 1, f"{path.name} has no {key}"
        path.write_text(text, encoding="utf-8")
    recipe = home / "configs" / "recipes" / "quickstart.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("seeds: 4", "seeds: 1"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        assert quickstart(home) == 0
    return home


def quickstart(home: Path, *overrides: str) -> int:
    recipe = str(home / "configs" / "recipes" / "quickstart.yaml")
    return cli.main(["run", recipe, "--no-open", *overrides])


def written(home: Path) -> dict[Path, int]:
    """When each file below the run was written."""
    files = (home / "runs" / "quickstart").rglob("*")
    return {path: path.stat().st_mtime_ns for path in files if path.is_file()}


def test_summary_has_every_promised_key_and_a_number_for_each(home: Path) -> None:
    summary = json.loads((home / "runs/quickstart/summary.json").read_text())
    assert summary.keys() >= SUMMARY_KEYS
    assert all(isinstance(summary[key], float | int) for key in SUMMARY_KEYS)


def test_report_is_one_self_contained_file(home: Path) -> None:
    page = (home / "runs/quickstart/report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in page
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", page)


def test_a_finished_quickstart_only_opens_its_report(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    before = written(home)
    assert quickstart(home) == 0
    assert written(home) == before


def test_an_interrupted_quickstart_resumes_after_the_last_finished_step(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    run = home / "runs" / "quickstart"
    (run / "steps" / "eval-generation.json").unlink()
    before = written(home)
    assert quickstart(home) == 0
    renewed = {
        path.relative_to(run).parts[0] for path, t in written(home).items() if before.get(path) != t
    }
    assert {"eval", "report.html", "summary.json"} <= renewed
    assert not renewed & {"data", "teacher", "semantic", "pixel", "decoder", "codes", "mllm"}


def test_other_settings_are_not_mixed_into_a_finished_run(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(home)
    assert quickstart(home, "steps.pixel.training.seed=7") == 2
    assert 'step "pixel" in runs/quickstart was run with another' in capsys.readouterr().err


def readme_snippets() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def run_snippet(home: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs one of README's snippets as it stands; returns the names that it leaves."""
    monkeypatch.chdir(home)

    def run(number: int) -> dict:
        names = {"__name__": "readme"}
        exec(compile(readme_snippets()[number], "README.md", "exec"), names)
        return names

    return run


def test_readme_snippet_encodes_and_decodes(run_snippet) -> None:
    names = run_snippet(0)
    codes, pictures = names["codes"], names["pictures"]
    assert codes.semantic.shape == codes.pixel.shape == codes.flat.shape == (1, 64)
    assert (codes.flat == codes.semantic * 8 + codes.pixel).all()
    assert pictures.shape == (1, 3, 64, 64)
    assert pictures.abs().max() <= 1


def test_readme_snippet_answers(run_snippet, capsys: pytest.CaptureFixture) -> None:
    names = run_snippet(1)
    [answer] = names["processor"].answers(names["token_ids"], names["inputs"]["input_ids"].shape[1])
    assert isinstance(answer, str)
    assert capsys.readouterr().out.strip() == repr([answer])


def test_readme_snippet_draws(run_snippet) -> None:
    assert len(readme_snippets()) == 3
    names = run_snippet(2)
    assert names["images"].shape == (1, 3, 64, 64)
    with Image.open("triangle.png") as image:
        assert image.size == (64, 64)


@pytest.fixture(scope="module")
def second_home(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to train in, since the examples of `train` write where the quickstart did."""
    copy = shutil.copytree(home, tmp_path_factory.mktemp("second") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(copy)
        flat = ["image_head=flat", "image_positions=none", "out=runs/flat"]
        config = "configs/quickstart/init_mllm.yaml"
        assert cli.main(["init-mllm", "--config", config, *flat]) == 0
        lora = ["lora.rank=2", "optimizer=adamw", "num_steps=1", "out=runs/lora"]
        config = "configs/quickstart/mllm.yaml"
        assert cli.main(["train", "mllm", "--config", config, *lora]) == 0
    return copy


@pytest.mark.parametrize("name", COMMANDS)
def test_help_example_works_after_a_quickstart(
    name: str, second_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(second_home)
    example = COMMANDS[name].example
    if name in ("quickstart", "run"):
        example += " --no-open"
    if name == "quickstart":  # the shipped steps take minutes, and those of this home are few
        example = "semhitok run configs/recipes/quickstart.yaml --no-open"
    if name == "chat":
        monkeypatch.setattr("sys.stdin", io.StringIO("/draw a teal triangle\nwhat color is it?\n"))
    if name == "serve":
        monkeypatch.setattr("http.server.ThreadingHTTPServer.serve_forever", lambda server: None)
        example += " --port 0"
    if name == "ablate":
        example += " seeds=[0] only=[sghc-enhance,flat]"  # of what takes an hour
    assert cli.main(shlex.split(example)[1:]) == 0
