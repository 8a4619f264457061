"""Commands that train, where the learning rate explodes: they stop, say where, save nothing."""

import json
from pathlib import Path

import pytest

from data_pipelines.loading.dataset import PreparedDataset
from semhitok import main as cli
from semhitok.commands import COMMANDS
from tests.every_command import LINES, make_place, words

pytestmark = pytest.mark.slow

STEPS = " training.num_steps=15 training.learning_rate=1e30 training.checkpoint_every=5"
MLLM = " num_steps=15 learning_rate=1e30 checkpoint_every=5"
KINDS = {
    **{f"train {each}": STEPS for each in ("teacher", "semantic", "pixel", "decoder", "joint")},
    "train mllm": MLLM,
}
MORE = [
    ("train mllm", f"{MLLM} optimizer=muon"),
    ("train mllm", f"{MLLM} lora.rank=2"),
    ("train mllm", f"{MLLM} model=@flat"),
    ("train mllm", f"{MLLM} learning_rate_multipliers.layers=0 packing=false"),
    ("train pixel", f"{STEPS} loss.adversarial.discriminator=patchgan loss.adversarial.width=4 "
     "loss.adversarial.num_layers=1 loss.adversarial.start_step=0 training.ema_decay=0.9"),
    ("train semantic", f"{STEPS} codebook.update=gradient"),
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_place(tmp_path_factory.mktemp("place"))


def test_every_command_that_trains_is_tried():
    # `ablate`, `run` and `quickstart` train by these.
    assert {name for name in COMMANDS if name.startswith("train ")} == KINDS.keys()


@pytest.mark.parametrize(("name", "more"), [*KINDS.items(), *MORE])
def test_a_learning_rate_that_explodes_is_one_sentence(name, more, place, tmp_path, capsys):
    capsys.readouterr()
    out = tmp_path / "out"
    assert cli.main(words(f"{name} {LINES[name]}{more}", place, out)) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("semhitok: error: ") and "not finite" in error, error
    assert "step" in error and "lower " in error and "overwrite=true" in error, error
    named = json.loads((out / "nonfinite_batches.json").read_text())
    known = {record.record_id for record in PreparedDataset(place / "data").texts()}
    assert named and all(each["record_ids"] for each in named)
    assert {record_id for each in named for record_id in each["record_ids"]} <= known
    assert not (out / "model").exists() and not (out / "finished.json").exists()
