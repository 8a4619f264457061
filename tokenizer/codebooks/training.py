"""One codebook in training: what a phase calls in its forward pass and after each step."""

import torch
from torch import Tensor, nn

from tokenizer.codebooks.ema import CodebookEMA
from tokenizer.codebooks.entropy import entropy_loss
from tokenizer.codebooks.gradient import CodebookGradient
from tokenizer.codebooks.upkeep import CodebookUpkeep
from tokenizer.model.codebook import GroupedCodebook, Quantized
from tokenizer.training.settings import CodebookConfig

UPDATERS: dict[str, type[CodebookUpkeep]] = {
    "ema": CodebookEMA,
    "gradient": CodebookGradient,
}


class CodebookTraining(nn.Module):
    """Quantises for the network, weighs the quantiser's losses, and moves the codes.

    Args:
        codebook: trained in place; it stays a part of the model, not of this module.
        config: how it moves.
        seed: of k-means and revival.
    """

    def __init__(self, codebook: GroupedCodebook, config: CodebookConfig, seed: int):
        super().__init__()
        self.config = config
        self.updater = UPDATERS[config.update](codebook, config.decay, config.revive_below, seed)
        self._seen: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def start(self, vectors: Tensor, groups: Tensor | None = None) -> None:
        """Place the codes by k-means over (..., D) vectors of `groups` (...), of all ranks."""
        vectors, groups = _flatten(vectors, groups)
        self.updater.kmeans_start(vectors, groups)

    def forward(
        self, vectors: Tensor, groups: Tensor | None = None
    ) -> tuple[Quantized, dict[str, Tensor]]:
        """Quantise (..., D) vectors of `groups` (...).

        In training mode the look-up is remembered for `after_step`, so that the micro-batches of a
        step move the codes together, and during the warm-up `vectors` are not quantised.

        Returns:
            The look-up, and its losses: `loss` is their weighted sum, the others are for the log.
        """
        codebook, config = self.updater.codebook, self.config
        quantized: Quantized = codebook(vectors, groups)
        loss = config.commitment_weight * quantized.commitment_loss
        losses = {"commitment_loss": quantized.commitment_loss.detach()}
        if config.update == "gradient":
            loss = loss + config.codebook_weight * quantized.codebook_loss
        if config.entropy_weight > 0:
            flat, flat_groups = _flatten(quantized.inputs, groups)
            entropy = entropy_loss(codebook, flat, flat_groups, config.entropy_temperature)
            loss = loss + config.entropy_weight * entropy
            losses["entropy_loss"] = entropy.detach()
        if self.training:
            flat, flat_groups = _flatten(vectors.detach(), groups)
            self._seen.append((flat, quantized.codes.flatten(), flat_groups))
            if config.warmup_steps and int(self.updater.num_updates) < config.warmup_steps:
                quantized = quantized._replace(vectors=quantized.inputs)
        return quantized, losses | {"loss": loss}

    def after_step(self) -> dict[str, float]:
        """Move the codes with what the step saw.

        Returns:
            `revived_codes`, and `batch_usage`: the share of all codes that this rank's step hit.
        """
        assert self._seen, "after_step follows a forward pass in training mode"
        vectors = torch.cat([seen[0] for seen in self._seen])
        codes = torch.cat([seen[1] for seen in self._seen])
        parts = [seen[2] for seen in self._seen if seen[2] is not None]
        groups = torch.cat(parts) if parts else None
        self.forget()
        num_groups, num_codes, _ = self.updater.codebook.codes.shape
        flat = codes if groups is None else groups * num_codes + codes
        used = flat.unique().numel() / (num_groups * num_codes)
        return {"revived_codes": self.updater.update(vectors, codes, groups), "batch_usage": used}

    def forget(self) -> None:
        """Drop what was seen, where a step is not taken."""
        self._seen.clear()


def _flatten(vectors: Tensor, groups: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return vectors.flatten(0, -2), None if groups is None else groups.flatten()
