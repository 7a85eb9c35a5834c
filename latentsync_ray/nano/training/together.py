"""Several processes that train one network, each on its part of every batch; or another one beside it.

On two cores, two processes of one thread do more than one process of two threads: the denoising network took 1.12 s a step for
three windows in each, against 0.72 to 0.79 s for three.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.multiprocessing.spawn import ProcessContext, spawn

__all__ = ["average_gradients", "beside", "place", "together"]


@contextmanager
def beside(task: Callable[..., object], *arguments: Any) -> Iterator[None]:
    """Run ``task(*arguments)`` in a process on one thread, beside what is done within; ends when both have.

    Raises when ``task`` does, after what is done within; when that raises, the process is ended.
    """
    other = spawn(_alone, (os.getpid(), task, arguments), nprocs=1, join=False)
    assert isinstance(other, ProcessContext)
    try:
        yield
        while not other.join():
            pass
    finally:
        for process in filter(None, other.processes):
            process.kill()
            process.join()


def together(task: Callable[..., object], *arguments: Any, folder: Path, processes: int) -> None:
    """Run ``task(*arguments)`` in so many processes, until all have ended. ``folder`` is where they meet.

    What ``task`` trains with ``loop.train`` begins and stays the same in all of them. Raises when one of them does.
    """
    meeting = folder / "meeting"
    meeting.unlink(missing_ok=True)
    spawn(_join, (processes, meeting, os.getpid(), task, arguments), nprocs=processes)


def _join(rank: int, processes: int, meeting: Path, parent: int, task: Callable[..., object], arguments: Any) -> None:
    _end_with(parent)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    where = f"file://{meeting.absolute()}"  # as it is: torch does not unquote
    distributed.init_process_group("gloo", init_method=where, rank=rank, world_size=processes)
    try:
        task(*arguments)
    finally:
        distributed.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)  # an orderly end now and then finds one of gloo's threads still there, and aborts


def _alone(rank: int, parent: int, task: Callable[..., object], arguments: Any) -> None:
    _end_with(parent)
    torch.set_num_threads(1)
    task(*arguments)


def place() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def average_gradients(network: nn.Module) -> None:
    """Give all processes the mean of their gradients."""
    if not distributed.is_initialized():
        return
    gradients = [value.grad for value in network.parameters() if value.grad is not None]
    whole = torch.cat([each.flatten() for each in gradients])
    distributed.all_reduce(whole)
    whole /= distributed.get_world_size()
    for each, mean in zip(gradients, whole.split([each.numel() for each in gradients]), strict=True):
        each.copy_(mean.view_as(each))


def _end_with(parent: int) -> None:
    """End this process when its parent is gone: the next run would train beside it, into the same files."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
