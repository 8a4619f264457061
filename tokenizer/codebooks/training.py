"""One codebook in training: what a phase calls in its forward pass and after each step."""

import torch
from torch import Tensor, nn

from tokenizer.codebooks.entropy import entropy_loss
from tokenizer.codebooks.kmeans import count_hits
from tokenizer.codebooks.settings import CodebookSettings
from tokenizer.codebooks.updater import CodebookUpdater
from tokenizer.model.codebook import GroupedCodebook, Quantized


class CodebookTraining(nn.Module):
    """Quantises for the network, weighs the quantiser's losses, and moves the codes.

    `name` is for the log. The codebook stays a part of the model, not of this module.
    """

    def __init__(self, name: str, codebook: GroupedCodebook, settings: CodebookSettings, seed: int):
        super().__init__()
        self.name = name
        self.settings = settings
        self.updater = CodebookUpdater(codebook, settings, seed)
        self._seen: list[tuple[Tensor, ...]] = []  # vectors, codes and, if there are any, groups

    def start(self, vectors: Tensor, groups: Tensor | None = None) -> None:
        """Start the codes by k-means over (..., D) vectors of `groups` (...), of all ranks."""
        self.updater.start(vectors.flatten(0, -2), None if groups is None else groups.flatten())

    def forward(
        self, vectors: Tensor, groups: Tensor | None = None
    ) -> tuple[Quantized, dict[str, Tensor]]:
        """Quantise (..., D) vectors of `groups` (...).

        In training mode the look-up is remembered for `after_step`, so that the micro-batches of a
        step move the codes together, and during the warm-up `vectors` are not quantised.

        Returns:
            The look-up, and its losses: `loss` is their weighted sum, the others are for the log.
        """
        codebook, settings = self.updater.codebook, self.settings
        quantized: Quantized = codebook(vectors, groups)
        flat_groups = None if groups is None else groups.flatten()
        loss = settings.commitment_weight * quantized.commitment_loss
        losses = {"commitment_loss": quantized.commitment_loss.detach()}
        if settings.update == "gradient":
            loss = loss + settings.codebook_weight * quantized.codebook_loss
        if settings.entropy_weight > 0:
            inputs, temperature = quantized.inputs.flatten(0, -2), settings.entropy_temperature
            entropy = entropy_loss(codebook, inputs, flat_groups, temperature)
            loss = loss + settings.entropy_weight * entropy
            losses["entropy_loss"] = entropy.detach()
        if self.training:
            seen = (vectors.detach().flatten(0, -2), quantized.codes.flatten())
            self._seen.append(seen if flat_groups is None else (*seen, flat_groups))
            if settings.warmup_steps and int(self.updater.num_updates) < settings.warmup_steps:
                quantized = quantized._replace(vectors=quantized.inputs)
        return quantized, losses | {"loss": loss}

    def after_step(self) -> dict[str, float]:
        """Move the codes with what the step saw.

        Returns `restarted_codes`, and `batch_NAME_usage`: the fraction of all codes that occur in
        this rank's part of the step.
        """
        assert self._seen, "after_step follows a forward pass in training mode"
        vectors, codes, *groups = (torch.cat(parts) for parts in zip(*self._seen, strict=True))
        self.forget()
        hit = count_hits(self.updater.codebook, codes, *groups) > 0
        restarted = self.updater.update(vectors, codes, *groups)
        return {
            "restarted_codes": restarted,
            f"batch_{self.name}_usage": int(hit.sum()) / hit.numel(),
        }

    def forget(self) -> None:
        """Drop what was seen, where a step is not taken."""
        self._seen.clear()
