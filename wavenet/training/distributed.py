"""Data-parallel training as `torchrun` starts it: one process a device, gradients averaged by DDP.

    torchrun --nproc-per-node 4 -m recipes.cli train ...

Without torchrun's environment variables there is one process, and nothing here communicates.
"""

import gc
import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from wavenet.device import find_device

# The other processes wait in a collective while the first one validates, auditions and saves.
PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Distributed:
    """Which process this is, of how many, and on which device it computes."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process writes files, logs and shows progress."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """`module`, with gradients (and initial weights) shared among the processes if there are several."""
        if self.world_size == 1:
            return module
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=devices)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of `values` over the processes, in place; the same on each of them."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier()


@contextmanager
def distributed(device: str = "auto") -> Iterator[Distributed]:
    """Join the processes that torchrun started, if it did; leave them at the end.

    `device` is "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:N"; under torchrun each process on "cuda" takes
    the GPU of its local rank.
    """
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    chosen = find_device(device)
    if chosen.type == "cuda":
        if chosen.index is None:
            chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    if world_size == 1:
        yield Distributed(0, 1, chosen)
        return
    # Gloo's threads end with the last reference to the group. One that outlives Python while it frees a tensor aborts
    # the process after all its work is done, so nothing may keep the group: functions of this module would, as default
    # arguments, if DDP were the first to import it; so would a wrapper that waits for the garbage collector.
    importlib.import_module("torch.distributed.nn")
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Distributed(rank, world_size, chosen)
    finally:
        gc.collect()
        dist.destroy_process_group()
