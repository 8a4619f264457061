"""Run under torchrun: several runs of the language model one after another in one launch.

torchrun --nproc_per_node 2 -m tests.mllm.zero_runs JOBS

JOBS is a JSON list of `{"config": YAML, "chunk": scores or null, "keep": [folder, step] or null}`.
A job leaves the logits of its last weights, as the ranks hold them, beside its model; with `keep`
it leaves in a folder what a run killed right after the checkpoint of that step would have left.
"""

import gc
import json
import shutil
import sys
from pathlib import Path

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

import mllm.model.loss
import mllm.training.trainer
from mllm.phase.settings import PhaseSettings
from mllm.training.deepspeed import start_deepspeed
from mllm.training.train import train_mllm
from mllm.training.trainer import UnifiedTrainer
from runtime.ranks import leave
from runtime.settings import load_settings

TOKEN_IDS = torch.tensor([[7, 3, 9, 8, 5, 4, 11, 6]])
CHUNK_SCORES = mllm.model.loss.CHUNK_SCORES
finish, save_model = mllm.training.trainer.finish, UnifiedTrainer.save_model


def save_with_logits(self, output_dir=None, _internal_call=False):
    """Before the model is saved, what the ranks make of some text."""
    if not _internal_call:
        zero = self.accelerator.deepspeed_plugin
        if zero is not None and zero.zero_stage == 3:
            assert all(hasattr(parameter, "ds_id") for parameter in self.model.parameters())
        self.model_wrapped.eval()
        with torch.no_grad():
            logits = self.model_wrapped(input_ids=TOKEN_IDS).logits
        if self.is_world_process_zero():
            torch.save(logits.clone(), Path(self.args.output_dir).parent / "logits.pt")
    save_model(self, output_dir, _internal_call)


def run(job):
    mllm.model.loss.CHUNK_SCORES = job.get("chunk") or CHUNK_SCORES
    config = load_settings(PhaseSettings, Path(job["config"]))

    def finish_and_keep(folder, num_ranks):
        finish(folder, num_ranks)
        if job.get("keep") and folder.name == f"checkpoint-{job['keep'][1]}":
            shutil.copytree(config.out, job["keep"][0])

    mllm.training.trainer.finish = finish_and_keep
    train_mllm(config)
    # The next run may be of another stage, or of none.
    unset_hf_deepspeed_config()
    gc.collect()
    torch.distributed.barrier()


if __name__ == "__main__":
    UnifiedTrainer.save_model = save_with_logits
    start_deepspeed(use_cpu=True)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        run(job)
    if torch.distributed.get_rank() == 0:
        print("ALL RUN")
    torch.distributed.destroy_process_group()
    leave(0)
