"""What a run reports: a progress bar, metrics.jsonl and TensorBoard."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from mllm.model.segments import Segments
from mllm.phase.settings import PhaseSettings
from runtime.metrics_log import MetricsLog
from runtime.progress import Progress

LOSSES = {
    "text_loss": "num_text_labels",
    "semantic_loss": "num_image_labels",
    "pixel_loss": "num_image_labels",
}
LABELS = ("num_text_labels", "num_image_labels")
COUNTS = ("num_tokens", "num_positions", *LABELS, *LOSSES)
# These depend on the machine, so a resumed run has others.
UNSTEADY = ("tokens_per_second", "mfu")


class Tally:
    """Sums over micro-batches since the last line of the log."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Start at zero, now."""
        self.sums = dict.fromkeys(COUNTS, 0.0)
        self.since = time.perf_counter()

    def add(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Count one micro-batch."""
        for name in (*LABELS, *LOSSES):
            self.sums[name] += float(outputs[name])
        segments = inputs.get("segments")
        if isinstance(segments, Segments):
            self.sums["num_tokens"] += segments.num_tokens
            self.sums["num_positions"] += inputs["input_ids"].numel()

    def take(self, flops_per_token: float, peak_tflops: float | None) -> dict[str, float]:
        """Means over all ranks since the last call, which every rank makes at the same step.

        Args:
            flops_per_token: forward and backward, nothing computed twice.
            peak_tflops: of one device, in 10¹² a second.

        Returns:
            Losses in nats a label, `tokens_per_second` and `padding_fraction` of all ranks, and
            with `peak_tflops` the fraction of it that useful tokens take, `mfu` (PaLM, arXiv
            2204.02311, appendix B).
        """
        seconds, num_ranks = time.perf_counter() - self.since, 1
        sums = torch.tensor([self.sums[name] for name in COUNTS], dtype=torch.float64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            num_ranks = torch.distributed.get_world_size()
            if torch.distributed.get_backend() == "nccl":
                sums = sums.float().cuda()
            torch.distributed.all_reduce(sums)
        total = dict(zip(COUNTS, sums.tolist(), strict=True))
        self.reset()
        values = {name: total[name] / max(1.0, total[count]) for name, count in LOSSES.items()}
        if total["num_positions"]:
            values["padding_fraction"] = 1 - total["num_tokens"] / total["num_positions"]
        values["tokens_per_second"] = total["num_tokens"] / seconds
        if peak_tflops is not None:
            rate = values["tokens_per_second"] / num_ranks
            values["mfu"] = rate * flops_per_token / (peak_tflops * 1e12)
        return values


class Reporter(TrainerCallback):
    """Progress bar and metrics, in the words of the other phases; `first_multiplier` is that of the
    learning rate of the optimiser's first group."""

    def __init__(
        self, tally: Tally, settings: PhaseSettings, first_multiplier: float, flops_per_token: float
    ):
        self.tally, self.settings = tally, settings
        self.first_multiplier, self.flops_per_token = first_multiplier, flops_per_token
        self.progress: Progress | None = None
        self.log: MetricsLog | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        self.progress = Progress(state.max_steps, "mllm", initial=state.global_step).__enter__()
        self.tally.reset()
        if state.is_world_process_zero:
            out, tensorboard = Path(self.settings.out), self.settings.tensorboard
            self.log = MetricsLog(out, state.global_step, tensorboard)

    def on_step_end(self, args, state, control, **kwargs):
        assert self.progress is not None
        self.progress.update(1)

    def on_log(self, args, state, control, logs=None, **kwargs):
        if not logs or "loss" not in logs:
            return
        assert self.progress is not None
        names = ("loss", "grad_norm", "learning_rate")
        values = {name: float(logs[name]) for name in names if name in logs}
        if "learning_rate" in values:
            # The schedule scales all groups alike, and the Trainer logs the first group's.
            rate = values["learning_rate"] = values["learning_rate"] / self.first_multiplier
            multipliers = self.settings.multipliers
            if len(set(multipliers.values())) > 1:
                values |= {f"learning_rate_{part}": rate * m for part, m in multipliers.items()}
        values |= self.tally.take(self.flops_per_token, self.settings.peak_tflops)
        if self.log is not None:
            self.log.write(state.global_step, **values)
        self.progress.update(0, loss=values["loss"])

    def close(self) -> None:
        """Finish the bar and the files, however the run ends."""
        for opened in (self.progress, self.log):
            if opened is not None:
                opened.__exit__(None, None, None)
