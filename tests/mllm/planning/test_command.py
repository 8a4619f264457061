import json
from pathlib import Path

import pytest

import semhitok
from mllm.phase.settings import PhaseSettings
from runtime.settings import load_settings
from runtime.value_types import anywhere
from runtime.yaml_values import read_values
from semhitok import main as cli
from tests.mllm.tiny import write_phase

ROOT = Path(semhitok.__file__).parents[1]
SHIPPED = [
    (path, phase)
    for path in sorted((ROOT / "configs" / "mllm").glob("*/mllm.yaml"))
    for phase in read_values(path).get("phases", [None])
    if path.with_name("init_mllm.yaml").is_file()
]


@pytest.mark.parametrize(
    ("path", "phase"), SHIPPED, ids=[f"{path.parent.name}-{phase}" for path, phase in SHIPPED]
)
def test_every_shipped_config_is_planned(path, phase, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    chosen = [] if phase is None else [f"phase={phase}"]
    with anywhere():
        settings = load_settings(PhaseSettings, path, chosen)
    assert cli.main(["plan", "--config", str(path), *chosen]) == 0
    shown = capsys.readouterr().out
    frozen = sum(line.endswith("frozen") for line in shown.splitlines())
    tied = "tie_word_embeddings: true" in path.with_name("init_mllm.yaml").read_text()
    lora = settings.lora is not None
    assert frozen == (4 if lora or phase == "align" else 1), shown
    assert ("LoRA: rank" in shown) == ("lora_A" in shown) == lora
    assert "optimiser group: adamw, decays" in shown and "× image_head" in shown
    assert ("× language_model" in shown) == (phase != "align")
    assert f"phase: {phase or 'the only one'}" in shown and "hidden states" in shown
    groups = shown[shown.index("optimiser group") :]
    assert ("lm_head" in groups) == (not tied and phase != "align")


def test_a_plan_of_a_run_writes_nothing(world, tmp_path, capsys):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    assert cli.main(["plan", "--config", str(config)]) == 0
    assert "plain data parallel" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


def test_the_command_prints_a_table_and_writes_it(world, tmp_path, capsys):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    command = ["plan", "--config", str(config), "--gpus", "2", "--gpu-memory", "1GiB"]
    assert cli.main([*command, "--out", str(tmp_path / "plan.json")]) == 0
    shown = capsys.readouterr().out
    assert "image tokenizer (frozen)" in shown and "2 × language_model" in shown
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["gpu_memory"] == 2**30 and len(plan["shardings"]) == 7
    assert sum(placement["chosen"] for placement in plan["shardings"]) == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "3"], "global_batch_size 4 is not a multiple of 3 ranks"),
        (["--gpu-memory", "much"], "give a size such as 80G"),
        (["model=nowhere"], "give the settings of init-mllm with --init FILE"),
        (["--out", "nowhere/plan.json"], "no such folder: nowhere"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(world, tmp_path, capsys, arguments, message):
    config = write_phase(tmp_path / "mllm.yaml", world.phase(tmp_path / "run"))
    assert cli.main(["plan", "--config", str(config), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
