"""The tensors of a saved model, one at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mllm.model.configuration_unified import UnifiedConfig
from runtime.errors import UserError, says
from runtime.files import read_json
from tokenizer.model.fingerprint import fingerprint_of_weights


class Weights:
    """The tensors of a saved model, in one file or in shards, each read when asked for.

    Raises:
        UserError: here and when a tensor is read, for a file that is missing or broken.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self._files = read_json(index)["weight_map"]
        else:
            with self._open("model.safetensors") as file:
                self._files = dict.fromkeys(file.keys(), "model.safetensors")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._files:
            raise UserError(f"the weights in {self.folder} lack {name}; copy the folder again")
        with self._open(self._files[name]) as file:
            tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(
                f"the weights in {self.folder} are not finite ({name}): the training diverged, or "
                f"the file is damaged; train again with a lower learning rate, or copy it again"
            )
        return tensor

    @contextmanager
    def _open(self, name: str) -> Iterator[Any]:
        try:
            with safe_open(self.folder / name, "pt") as file:
                yield file
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"the weights {self.folder / name} are missing or broken: {says(error)}"
            ) from error

    def names(self, prefix: str) -> list[str]:
        """Names that begin so, in order."""
        return sorted(name for name in self._files if name.startswith(prefix))

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The state of one part of the model."""
        return {name.removeprefix(prefix): self[name] for name in self.names(prefix)}


def saved_code_fingerprint(folder: Path, config: UnifiedConfig) -> str:
    """Of the image tokenizer in a model's folder, whose config is given."""
    weights, prefix = Weights(folder), "image_tokenizer."
    return fingerprint_of_weights(
        config.image_tokenizer_config,
        [name.removeprefix(prefix) for name in weights.names(prefix)],
        lambda name: weights[prefix + name],
    )
