"""Recipes of quick commands: what is checked first, skipped, resumed and refused."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image

from runtime.errors import UserError
from runtime.resume import run_lock
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
        ("limits.minutes=1", 'limits names "minutes", which no summary holds'),
        ("steps.a/b.run=prepare", '"steps.a/b'),
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


def test_two_steps_that_write_one_place_and_a_recipe_without_steps_are_refused(recipe):
    twice = {"run": "prepare", "sources": ["folder:images"], "out": "${out}/data"}
    with pytest.raises(UserError, match=r'step "b" .* writes to .*data, as one before it does'):
        start(recipe(steps={"a": twice, "b": twice | {"shard_size": 2}}))
    with pytest.raises(UserError, match='"steps" must be'):
        start(recipe(steps={}))
    with pytest.raises(UserError, match="every step is left out"):
        start(recipe(), "steps.prepare=null", "steps.look=null")
    Path("base.yaml").write_text("title: a\nout: o\n")
    with pytest.raises(UserError, match=r'"steps\.x=null" names no step'):
        start(Path("base.yaml"), "steps.x=null", "steps.y={run: prepare}")


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


@pytest.fixture
def long_recipe(recipe):
    """A recipe on captioned images that goes on to ask questions, of which there are none."""
    data, out = "${out}/data", "${out}/answers"
    return recipe(
        steps={
            "prepare": {"run": "prepare", "sources": ["folder:images"], "out": data},
            "look": {"run": "data inspect", "data": data, "out": "${out}/data/look.html"},
            "vqa": {"run": "eval vqa", "predictions": "recipe.yaml", "data": data, "out": out},
        }
    )


def test_what_the_data_make_impossible_is_told_as_soon_as_they_are_there(long_recipe, capsys):
    with pytest.raises(UserError, match=r'step "vqa": .*/data has no questions.*steps\.vqa=null'):
        start(long_recipe)
    assert "[2/3]" not in capsys.readouterr().err


def test_the_mend_that_is_named_works_in_that_folder(long_recipe, capsys):
    with pytest.raises(UserError):
        start(long_recipe)
    capsys.readouterr()
    assert start(long_recipe, "steps.vqa=null").is_file()
    assert "[1/2]" not in capsys.readouterr().err  # what was prepared stays
    with pytest.raises(UserError, match=r'"steps\.vqe=null" names no step of the recipe'):
        start(long_recipe, "steps.vqe=null")


def test_a_moved_run_is_the_same_run(recipe, tmp_path, capsys):
    start(recipe())
    shutil.move("runs/noise", "elsewhere")
    capsys.readouterr()
    run(RunSettings(recipe=recipe(), out=tmp_path / "elsewhere", open=False))
    assert "[1/2]" not in capsys.readouterr().err


def test_another_title_makes_another_report_and_nothing_else(recipe, capsys):
    start(recipe())
    capsys.readouterr()
    assert "Other noise" in start(recipe(title="Other noise")).read_text()
    assert "[1/2]" not in capsys.readouterr().err


def test_what_is_gone_is_told(recipe):
    start(recipe())
    shutil.rmtree("runs/noise/data")
    with pytest.raises(UserError, match=r'what step "prepare" wrote to .* is gone: put it back'):
        start(recipe())


def test_the_folder_of_a_run_is_held(recipe):
    with run_lock(Path("runs/noise")), pytest.raises(UserError, match="another run"):
        start(recipe())


def test_marks_of_another_version_are_refused(recipe):
    start(recipe())
    Path("runs/noise/steps/look.json").write_text('{"seconds": 3}')
    with pytest.raises(UserError, match="was run by another version: give another --out"):
        start(recipe())


def test_the_folder_of_the_run_is_known_in_overrides_and_holds_files_itself(recipe):
    look = {"run": "data inspect", "data": "${out}/data", "out": "${out}/look.html"}
    prepare = {"run": "prepare", "sources": ["folder:images"], "out": "${out}/other"}
    start(recipe(steps={"prepare": prepare, "look": look}), "steps.prepare.out=${out}/data")
    assert Path("runs/noise/look.html").is_file() and Path("runs/noise/data").is_dir()


@pytest.mark.parametrize("name", ["../quickstart/teacher.yaml", "configs/quickstart/teacher.yaml"])
def test_a_copy_of_a_shipped_recipe_finds_the_shipped_configs(name, tmp_path):
    (tmp_path / "data").mkdir()
    step = {"run": "train teacher", "config": name, "data": str(tmp_path / "data"), "out": "x"}
    (found,) = read_steps(Recipe(title="", out=Path("o"), steps={"t": step}), Path("o"), tmp_path)
    assert found.settings.training.num_steps == 1500


def test_a_step_may_take_one_phase_of_a_file_of_several(tmp_path):
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "config.json").write_text("{}")
    (tmp_path / "file.yaml").write_text(
        f"model: {tmp_path}/start\nglobal_batch_size: 8\nlearning_rate: 1e-3\ndata: elsewhere\n"
        "phases:\n  align: {num_steps: 5, out: a}\n  sft: {num_steps: 7, out: b}\n"
    )
    step = {"run": "train mllm", "config": "file.yaml", "phase": "sft", "out": "${out}/mllm"}
    step |= {"data": str(tmp_path)}
    (found,) = read_steps(Recipe(title="", out=Path("o"), steps={"t": step}), Path("o"), tmp_path)
    assert (found.settings.phase, found.settings.num_steps) == ("sft", 7)
    assert (found.settings.data, found.settings.out) == (str(tmp_path), Path("o/mllm"))


def test_folders_of_the_language_model_are_looked_for_before_the_first_step(recipe):
    init = {"run": "init-mllm", "tokenizer": "nowhere", "out": "${out}/start", "text_config": {}}
    with pytest.raises(UserError, match='step "init" of the recipe: "tokenizer": no such folder'):
        start(recipe(steps={"init": init}))


def test_an_ablation_in_a_recipe_finds_the_files_beside_its_own(tmp_path):
    step = {"run": "ablate", "config": "configs/ablation/quickstart.yaml", "out": "${out}/ablation"}
    (found,) = read_steps(Recipe(title="", out=Path("o"), steps={"t": step}), Path("o"), tmp_path)
    assert all(path.is_file() for path in found.settings.phases.values())
