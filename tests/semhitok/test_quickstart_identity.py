from dataclasses import replace

import pytest

from runtime.errors import UserError
from semhitok.quickstart import QuickstartConfig, run_quickstart


@pytest.fixture
def quickstart(tmp_path, monkeypatch):
    """A quickstart whose steps do nothing, and whose phases have a base."""
    phases = tmp_path / "phases"
    phases.mkdir()
    (tmp_path / "base.yaml").write_text("training:\n  num_steps: 3\n")
    (phases / "pixel.yaml").write_text("base: ../base.yaml\nout: here\n")
    done = []

    def steps(config, out):
        return {"only": lambda: done.append("only")}

    monkeypatch.setattr("semhitok.quickstart._steps", steps)
    config = QuickstartConfig("a", "b", phases)
    run_quickstart(config, tmp_path / "run")
    return config, tmp_path, done


def test_a_comment_and_the_place_of_the_configs_change_nothing(quickstart):
    config, tmp_path, done = quickstart
    path = config.phases / "pixel.yaml"
    path.write_text("# said better\n" + path.read_text())
    run_quickstart(config, tmp_path / "run")
    assert done == ["only"]


def test_a_value_changed_in_a_base_is_another_quickstart(quickstart):
    config, tmp_path, _ = quickstart
    (tmp_path / "base.yaml").write_text("training:\n  num_steps: 4\n")
    with pytest.raises(UserError, match="holds a quickstart with other settings"):
        run_quickstart(config, tmp_path / "run")


def test_another_seed_is_another_quickstart(quickstart):
    config, tmp_path, _ = quickstart
    with pytest.raises(UserError, match="holds a quickstart with other settings"):
        run_quickstart(replace(config, seed=1), tmp_path / "run")


def test_a_step_that_was_interrupted_is_known_as_such(tmp_path, monkeypatch):
    attempts = []

    def step():
        attempts.append(1)
        if len(attempts) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("semhitok.quickstart._steps", lambda config, out: {"only": step})
    (tmp_path / "phases").mkdir()
    config = QuickstartConfig("a", "b", tmp_path / "phases")
    with pytest.raises(KeyboardInterrupt):
        run_quickstart(config, tmp_path / "run")
    run_quickstart(config, tmp_path / "run")
    assert '"resumed": true' in (tmp_path / "run" / "steps" / "only.json").read_text()
    assert not list((tmp_path / "run" / "steps").glob("*.begun"))
