"""Several processes of one command, as `torchrun` starts them: who this one is, what the first does alone, what all add up.

Every process runs the same program in the same order. The first one, the *main* process, alone writes files, prints and holds
locks: the others wait for what it makes (`on_main`). A model is trained and evaluated by all of them together. Without torchrun
there is one process, and nothing here does anything.
"""

from __future__ import annotations

import atexit
import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import numpy as np
from numpy.typing import NDArray

from felid.errors import RequestError

if TYPE_CHECKING:  # the commands that need no torch must not wait for it
    from torch import Tensor

T = TypeVar("T")
Numbers = TypeVar("Numbers", NDArray[np.int64], NDArray[np.int32], NDArray[np.float32])
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that torchrun sets; a process is one of several where all of them are there."""
PATIENCE = timedelta(days=7)
"""How long a process waits for the others: embedding may take hours. If one dies, torchrun ends the rest."""
SECONDS_TO_SPEAK = 30.0

_alone: ContextVar[bool] = ContextVar("alone", default=False)


@dataclass(frozen=True)
class World:
    """Which process this is.

    Attributes:
        rank: its number, from 0; 0 is the main process.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1


def world() -> World:
    """Which process this is; the only one without torchrun and within `on_main`."""
    if _alone.get() or not all(name in os.environ for name in VARIABLES):
        return World()
    return World(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))


def is_main() -> bool:
    """Whether this process is the one that writes and prints."""
    return world().rank == 0


def begin(*, together: bool) -> None:
    """How a command begins under torchrun.

    One that all do `together`: the others wait for the main process, which does not ask for them before it has found the command
    to be in order. Any other: they end here, and the main process goes on as if torchrun had not been used.
    """
    if together and not is_main():
        join()
    elif not is_main():
        sys.exit(0)
    elif not together:
        for name in VARIABLES:
            os.environ.pop(name, None)


def join() -> None:
    """Meet the other processes, if there are some: before accelerate does, whose groups have no gloo beside nccl."""
    if world().size > 1:
        _group()


def main_stderr() -> TextIO:
    """Where warnings go: those of the main process are enough."""
    return sys.stderr if is_main() else io.StringIO()


def who_speaks() -> str:
    """What begins an error message: nothing in the main process; another names itself, after a while.

    What fails in all processes alike is said by the main one, and then torchrun ends the others before they speak.
    """
    if is_main():
        return ""
    time.sleep(SECONDS_TO_SPEAK)
    return f"process {world().rank}: "


def on_main(work: Callable[[], T]) -> T:
    """What the main process makes of `work`, in all processes; meanwhile the others wait.

    While it works there is but one process, so that whatever trains or evaluates in there does it alone. What it returns must
    be picklable. If it fails, torchrun ends the others.
    """
    if world().size == 1:
        return work()
    dist, found = _group(), list[Any]([None])
    if is_main():
        with _one_process():
            found = [work()]
    dist.broadcast_object_list(found, src=0)
    made: T = found[0]
    return made


def add_up(numbers: Tensor) -> Tensor:
    """The sum over all processes, which must give tensors of one shape; bit-equal in all of them, in place."""
    if world().size > 1:
        _group().all_reduce(numbers)
    return numbers


def from_main(numbers: Tensor) -> Tensor:
    """The main process's numbers, in place; tensors of one shape."""
    if world().size > 1:
        _group().broadcast(numbers, src=0)
    return numbers


def largest(numbers: Numbers) -> Numbers:
    """The elementwise maximum over all processes, which must give arrays of one shape."""
    if world().size == 1:
        return numbers
    import torch

    dist, merged = _group(), torch.from_numpy(numbers.copy())
    dist.all_reduce(merged, op=dist.ReduceOp.MAX)
    return merged.numpy()


def each(value: Tensor) -> list[Tensor]:
    """What every process gives, by rank; CPU tensors of one shape."""
    if world().size == 1:
        return [value]
    import torch

    values = [torch.empty_like(value) for _ in range(world().size)]
    _group().all_gather(values, value)
    return values


@contextmanager
def _one_process() -> Iterator[None]:
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def _group() -> Any:
    """`torch.distributed` with its process group, which the first call starts: gloo for the CPU, nccl for GPUs.

    Raises:
        RequestError: more processes on this machine than it has GPUs.
    """
    import torch
    import torch.distributed as dist

    if not dist.is_initialized():
        gpus, local = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
        if gpus and local >= gpus:
            raise RequestError(f"got {local + 1} or more processes for {gpus} GPUs, expected one each; lower --nproc_per_node")
        if gpus:
            torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    return dist
