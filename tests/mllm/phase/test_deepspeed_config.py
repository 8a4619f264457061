"""What a DeepSpeed JSON may say beside the YAML, and the files for several nodes."""

import json
import subprocess

import pytest

from mllm.phase.deepspeed_config import LEFT_TO_THE_YAML, read_deepspeed
from mllm.training.train import train_mllm
from runtime.errors import UserError
from tests.mllm.tiny import REPOSITORY

CONFIGS = REPOSITORY / "configs" / "deepspeed"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_shipped_file_agrees_with_any_run(world, path, tmp_path):
    config = world.phase(tmp_path, bf16=True, max_grad_norm=3.0)
    values = read_deepspeed(path, config, 2, 2)
    assert values["gradient_clipping"] == "auto"
    assert str(values["zero_optimization"]["stage"]) == path.stem.removeprefix("zero")[0]


def test_a_file_may_say_the_same_as_the_run(world, tmp_path):
    path = tmp_path / "same.json"
    same = {
        "train_batch_size": 4, "train_micro_batch_size_per_gpu": 2,
        "gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "bf16": {"enabled": False},
    }  # fmt: skip
    path.write_text(json.dumps(same))
    assert read_deepspeed(path, world.phase(tmp_path), 2, 2) == same


def test_what_is_left_out_is_the_runs_and_not_deepspeeds_own(world, tmp_path):
    path = tmp_path / "short.json"
    path.write_text('{"zero_optimization": {"stage": 3, "reduce_bucket_size": 7}}')
    assert read_deepspeed(path, world.phase(tmp_path), 2, 2) == {
        **dict.fromkeys(LEFT_TO_THE_YAML, "auto"),
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3, "reduce_bucket_size": 7,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"train_batch_size": 64}, "train_batch_size is 64 there, but global_batch_size is 4"),
        (
            {"train_micro_batch_size_per_gpu": 8},
            "train_micro_batch_size_per_gpu is 8 there, but micro_batch_size is 4",
        ),
        (
            {"gradient_accumulation_steps": 2},
            "gradient_accumulation_steps is 2 there, but global_batch_size over micro_batch_size "
            "and 1 ranks is 1",
        ),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5 there, but max_grad_norm is 1.0"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True there, but bf16 is False"),
        (
            {"fp16": {"enabled": True}},
            "fp16.enabled is True there, but float16 is never trained in, so it is False",
        ),
        (
            {"optimizer": {"type": "Adam", "params": {"lr": 1e-4}}},
            "its optimizer block says Adam, but the run uses adamw with learning_rate 0.003",
        ),
        (
            {"scheduler": {"type": "WarmupLR"}},
            "its scheduler block says WarmupLR, but the run uses a cosine over 12 steps after "
            "warmup_steps 2",
        ),
        ({"zero_optimization": {"stage": 4}}, "zero_optimization.stage is 4 there, but ZeRO has"),
        ({"zero_optimization": 3}, "zero_optimization of the DeepSpeed config"),
        ([], "must be one JSON object"),
    ],
)
def test_a_file_that_fights_the_run_is_one_sentence(world, tmp_path, values, sentence):
    path = tmp_path / "fights.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError) as caught:
        train_mllm(world.phase(tmp_path / "run", deepspeed=path))
    assert sentence in str(caught.value) and str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_broken_file_is_one_sentence(world, tmp_path):
    path = tmp_path / "broken.json"
    path.write_text('{"bf16": ')
    with pytest.raises(UserError, match=r"broken\.json is not valid JSON: line 1"):
        train_mllm(world.phase(tmp_path / "run", deepspeed=path))


def test_the_script_for_several_nodes_is_sound_and_passes_the_overrides_on():
    script = CONFIGS / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    stubs = "scontrol() { printf 'a\\nb\\n'; }; srun() { printf '%s ' \"$@\"; }; "
    variables = "SLURM_JOB_NODELIST=x SLURM_JOB_ID=70001 SLURM_NNODES=2 SLURM_GPUS_ON_NODE=4; "
    finished = subprocess.run(
        ["bash", "-c", f"{stubs}{variables} set -- FILE num_steps=3; . {script}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert "--nnodes 2 --nproc_per_node 4" in finished.stdout
    assert "--rdzv_endpoint a:30001" in finished.stdout
    assert finished.stdout.rstrip().endswith("-m semhitok train mllm --config FILE num_steps=3")


def test_the_hostfile_is_one_that_deepspeed_reads():
    from deepspeed.launcher.runner import fetch_hostfile

    assert dict(fetch_hostfile(str(CONFIGS / "hostfile"))) == {"node-0": 8, "node-1": 8}
