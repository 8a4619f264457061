"""Recipes of quick commands: what is checked first, skipped, resumed and refused."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from runtime.errors import UserError
from semhitok.recipe import Recipe, read_steps, run
from semhitok.recipe_settings import RunSettings


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """Writes a recipe that prepares and inspects a folder of images, with changed values."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for number in range(3):
        Image.effect_noise((16, 16), 40).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text(f"noise {number}\n")

    def write(**changed) -> Path:
        steps = {
            "prepare": {"run": "prepare", "sources": ["folder:images"], "out": "${out}/data"},
            "look": {"run": "data inspect", "data": "${out}/data", "out": "${out}/data/look.html"},
        }
        values = {"title": "Noise", "out": "runs/noise", "steps": steps} | changed
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return tmp_path / "recipe.yaml"

    return write


def start(path: Path, *overrides: str) -> Path:
    return run(RunSettings(recipe=path, overrides=list(overrides), open=False))


def test_steps_run_in_order_and_a_report_stands_at_the_end(recipe, capsys):
    report = start(recipe())
    assert report == Path("runs/noise/report.html")
    assert "Noise" in report.read_text()
    summary = json.loads(Path("runs/noise/summary.json").read_text())
    assert summary["seconds"] > 0
    assert Path("runs/noise/data/look.html").is_file()
    assert "[1/2] prepare" in capsys.readouterr().err


def test_a_finished_run_does_nothing_again(recipe, capsys):
    start(recipe())
    before = {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*") if p.is_file()}
    capsys.readouterr()
    start(recipe())
    assert {p: p.stat().st_mtime_ns for p in Path("runs").rglob("*") if p.is_file()} == before
    assert "[1/2]" not in capsys.readouterr().err


def test_a_step_without_its_mark_runs_again(recipe, capsys):
    start(recipe())
    Path("runs/noise/steps/look.json").unlink()
    Path("runs/noise/data/look.html").unlink()
    capsys.readouterr()
    start(recipe())
    shown = capsys.readouterr().err
    assert "[2/2] look" in shown and "[1/2]" not in shown
    assert Path("runs/noise/data/look.html").is_file()


def test_a_finished_step_with_other_settings_is_refused(recipe):
    start(recipe())
    with pytest.raises(UserError, match=r'step "prepare" .* was run with another "shard_size"'):
        start(recipe(), "steps.prepare.shard_size=7")


def test_a_step_that_is_older_than_an_earlier_one_is_refused(recipe):
    start(recipe())
    mark = Path("runs/noise/steps/prepare.json")
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"id": "other"}))
    with pytest.raises(UserError, match=r'step "look" .* was run before an earlier one'):
        start(recipe())


def test_a_step_may_be_added_to_a_finished_run(recipe, capsys):
    start(recipe())
    more = {"run": "data inspect", "data": "${out}/data", "out": "${out}/data/more.html"}
    start(recipe(), f"steps.more={json.dumps(more)}")
    assert Path("runs/noise/data/more.html").is_file()


def test_out_wins_over_the_recipes_own(recipe, tmp_path):
    run(RunSettings(recipe=recipe(), out=tmp_path / "else where, #1", open=False))
    assert (tmp_path / "else where, #1" / "data" / "look.html").is_file()


def test_the_duration_of_an_interrupted_run_is_unknown(recipe):
    steps = Path("runs/noise/steps")
    steps.mkdir(parents=True)
    (steps / "prepare.begun").touch()
    start(recipe())
    assert json.loads(Path("runs/noise/summary.json").read_text())["seconds"] is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps.look.run=data inspekt", 'step "look" of the recipe: "run" must name a command'),
        ("steps.look.run=run", '"run" must name a command'),
        ("steps.look.data=nowhere", '"data": no such folder: nowhere'),
        ("steps.look.sead=3", 'step "look" of the recipe (with sead=3): unknown key "sead"'),
        ("steps.prepare.shard_size=0", '"shard_size" must be greater than 0'),
        ("titel=x", 'unknown key "titel"; did you mean "title"?'),
        ("disk_gb=1e9", "GB free, and the recipe needs"),
        ("steps.prepare.sources=[nowhere/at/all]", "nowhere/at/all"),
    ],
)
def test_every_slip_is_told_before_the_first_step(recipe, override, message):
    with pytest.raises(UserError) as caught:
        start(recipe(), override)
    assert message in str(caught.value)
    assert not Path("runs/noise/data").exists()


def test_a_config_file_is_relative_to_the_recipe_and_under_the_steps_own_keys(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "inspect.yaml").write_text("data: data\nout: a.html\n")
    entry = {"run": "data inspect", "config": "sub/inspect.yaml", "out": "${out}/b.html"}
    (tmp_path / "run").mkdir()
    (tmp_path / "data").mkdir()
    entry["data"] = str(tmp_path / "data")
    made = Recipe(title="t", out=tmp_path, steps={"look": entry})
    [step] = read_steps(made, tmp_path / "run", tmp_path)
    assert step.settings.model_dump()["out"] == tmp_path / "run" / "b.html"
