"""The ranks of a launch: as one group that agrees and shares small objects, and tensors of all."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.errors import UserError

T = TypeVar("T")

# A rank may finish hours before the others; a lost one is noticed at once, by its connection.
_TIMEOUT = timedelta(days=7)


class RankGroup:
    """The ranks that `torchrun`, `accelerate launch` or `deepspeed` has started; else one alone.

        with RankGroup() as ranks:
            plan = ranks.from_main(make_plan)

    Messages go over the CPU, since they are names and counts. A group that exists already is used
    and stays.

    Attributes:
        rank, world_size: of all ranks.
        local_rank, local_world_size: of those on this node.
    """

    def __init__(self) -> None:
        self.rank, self.world_size = _number("RANK", 0), _number("WORLD_SIZE", 1)
        self.local_rank = _number("LOCAL_RANK", 0)
        self.local_world_size = _number("LOCAL_WORLD_SIZE", 1)
        self._is_ours = False

    def __enter__(self) -> "RankGroup":
        if self.world_size > 1 and not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_TIMEOUT)
            self._is_ours = True
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_ours:
            dist.destroy_process_group()

    def from_main(self, make: Callable[[], T]) -> T:
        """What `make` returns on rank 0; where it fails there, the other ranks exit silently."""
        if self.world_size == 1:
            return make()
        made: list[Any] = [None]
        if self.rank == 0:
            try:
                made = [(make(),)]
            except UserError:
                self._broadcast([None])
                raise
        self._broadcast(made)
        if made[0] is None:
            sys.exit(2)
        return made[0][0]

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in order, on every rank.

        Raises:
            UserError: if a rank is lost; its own error says why.
        """
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        try:
            dist.all_gather_object(values, value)
        except RuntimeError as error:
            raise _lost() from error
        return values

    def _broadcast(self, objects: list[Any]) -> None:
        try:
            dist.broadcast_object_list(objects, src=0)
        except RuntimeError as error:
            raise _lost() from error


def _number(name: str, default: int) -> int:
    """A variable of the launch, which torchrun sets."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        raise UserError(f"the variable {name} must be a number, not {text!r}; unset it")
    return int(text)


@contextlib.contextmanager
def own_group() -> Iterator[None]:
    """Destroy the process group that the block begins, however it ends; one from before stays."""
    was_there = dist.is_initialized()
    try:
        yield
    finally:
        if dist.is_initialized() and not was_there:
            dist.destroy_process_group()


def num_ranks() -> int:
    """Ranks of the running process group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_ranks(*tensors: Tensor) -> None:
    """Add the float tensors of all ranks, in place, in one message."""
    if num_ranks() == 1:
        return
    joint = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(joint)
    for tensor, total in zip(tensors, joint.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(total.view_as(tensor))


def gather_tensor(tensor: Tensor) -> Tensor:
    """Concatenate a tensor of equal shape over ranks, in rank order."""
    if num_ranks() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(num_ranks())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


def _lost() -> UserError:
    return UserError("another rank has stopped, see above for its reason; run the command again")
