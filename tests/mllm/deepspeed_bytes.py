"""Run under torchrun: what DeepSpeed holds of a model under each ZeRO stage, as one JSON line.

python -m torch.distributed.run --nproc_per_node 2 -m tests.mllm.deepspeed_bytes MODEL
"""

import json
import sys

import deepspeed
import torch
from torch.optim import AdamW
from transformers import Trainer

from mllm.saved.load import load_model
from runtime.ranks import leave


def size(tensors):
    """Bytes of distinct memory."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def hold(folder, stage):
    model = load_model(folder)
    decaying = set(Trainer.get_decay_parameter_names(None, model))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    groups = [[p for n, p in trained if (n in decaying) == decays] for decays in (True, False)]
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model,
        optimizer=AdamW([{"params": group} for group in groups], lr=1e-3),
        config={
            "train_micro_batch_size_per_gpu": 1,
            "bf16": {"enabled": True},
            "zero_allow_untested_optimizer": True,
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
        },
    )
    token_ids = torch.arange(3, 11).unsqueeze(0)
    engine.backward(engine(input_ids=token_ids, labels=token_ids).loss)
    engine.step()
    three = stage == 3
    master = optimizer.fp32_partitioned_groups_flat if three else None
    master = master or optimizer.single_partition_of_fp32_groups
    states = optimizer.optimizer.state.values()
    weights = [p.ds_tensor if three else p.data for p in model.parameters()]
    return {
        "weights": size(weights),
        "master": sum(t.numel() * t.element_size() for t in master),
        "optimizer": sum(
            t.numel() * t.element_size() for s in states for t in s.values() if t.ndim
        ),
    }


if __name__ == "__main__":
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="gloo", auto_mpi_discovery=False)
    found = {stage: hold(sys.argv[1], stage) for stage in (1, 2, 3)}
    if torch.distributed.get_rank() == 0:
        print("HELD", json.dumps(found))
    torch.distributed.destroy_process_group()
    leave(0)
