"""What a phase will take of a CPU's memory, refused before the first step where it is too much.

A GPU refuses by itself; the system kills a process that takes more than there is.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from runtime.errors import UserError
from runtime.memory import require_memory
from tokenizer.training.settings import TrainingSettings

Module = TypeVar("Module", bound=nn.Module)

# Images of fewer pixels in all are not looked at: 64 at 256².
UNCHECKED_PIXELS = 2**22


def build_checked(build: Callable[[], Module]) -> Module:
    """What `build` makes on the default device; a `UserError` where its weights would not fit."""
    try:
        with torch.device("meta"), torch.random.fork_rng(devices=[]):
            weights = _bytes(list(build().parameters()))
    except RuntimeError as error:  # more numbers than 64 bits can count
        if "overflow" not in str(error):
            raise
        raise UserError(
            "the weights of the model are more than any memory holds; lower the sizes in the model "
            "section"
        ) from error
    require_memory(weights, "the weights of the model", "lower the sizes in the model section")
    return build()


def require_training_memory(
    phase: nn.Module, training: TrainingSettings, num_ranks: int, plays: bool
) -> None:
    """Refuse a phase whose gradients, averages and batches would not fit beside it.

    `num_ranks` share a batch, and `plays` says whether there is a discriminator.
    """
    parameters = list(phase.parameters())
    if parameters[0].device.type != "cpu":
        return
    trained = _bytes([p for p in parameters if p.requires_grad])
    needed = trained * (3 + (training.ema_decay > 0))  # gradient, two moments, average
    pixels = int(phase.image_size) ** 2  # type: ignore[arg-type]
    num_images = training.global_batch_size // num_ranks
    at_once = min(num_images, training.micro_batch_size or num_images)
    if num_images * pixels > UNCHECKED_PIXELS:
        # Bytes, floats, and floats once more, augmented.
        needed += num_images * pixels * 3 * (1 + 4 + 4)
        needed += at_once * _activation_bytes(phase) * (2 if plays else 1)
    require_memory(
        needed,
        f"training with {num_images} images on each device, {at_once} at once,",
        "lower training.micro_batch_size, training.global_batch_size or the sizes of the model",
    )


def _activation_bytes(phase: Any) -> int:
    """What the forward pass of one image keeps for its backward pass."""
    kept: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in phase.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was_training = phase.training
    phase.eval()
    images = torch.zeros(1, 3, phase.image_size, phase.image_size)
    with torch.random.fork_rng(devices=[]), saved_tensors_hooks(keep, lambda tensor: tensor):
        losses = phase({"images": images, "caption": [""]})
    phase.train(was_training)
    del losses
    return sum(kept.values())


def _bytes(parameters: list[nn.Parameter]) -> int:
    return sum(p.numel() * p.element_size() for p in parameters)
