"""Two processes against one, on CPUs."""

import pytest
import torch

from semhitok.config import build_config, save_config
from tests.mllm.tiny import launch
from tokenizer import train
from tokenizer.model_folder import load_tokenizer
from tokenizer.training_config import SemanticPhaseConfig


@pytest.mark.slow
def test_two_ranks_end_where_one_process_ends(prepared, tiny_model, model_fields, tmp_path):
    tiny_model().teacher.save_pretrained(tmp_path / "teacher")
    values = {
        "data": str(prepared),
        "teacher": str(tmp_path / "teacher"),
        "model": model_fields,
        "codebook": {"kmeans_images": 16},
        "training": {"num_steps": 6, "global_batch_size": 8, "learning_rate": 5e-3},
    }
    one, two = (
        build_config(SemanticPhaseConfig, values | {"out": str(tmp_path / name)}, "the test")
        for name in ("one", "two")
    )
    train.train_phase("semantic", one)
    save_config(two, tmp_path / "two.yaml")
    finished = launch(2, "train", "semantic", "--config", str(tmp_path / "two.yaml"))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert finished.stdout.count("wrote ") == 1

    start = tiny_model().state_dict()
    models = [load_tokenizer(config.out / "model").state_dict() for config in (one, two)]
    for name in models[0]:
        torch.testing.assert_close(models[0][name], models[1][name], atol=1e-4, rtol=0, msg=name)
    # Against vacuity: ranks that trained alone on half batches would be this far off.
    moved = "semantic_codebook.codes"
    assert (models[0][moved] - start[moved]).abs().max() > 0.1
