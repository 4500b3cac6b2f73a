"""The same work for many items, in processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import torch
from tqdm import tqdm

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_in_order(
    process: Callable[[Item], Result], items: Sequence[Item], workers: int | None, name: str
) -> Iterator[Result]:
    """`process` of each item, in order, with a progress bar called `name`.

    Args:
        workers: processes; None: one per core, 0: this one.

    Raises:
        RuntimeError: a process was killed.
    """
    bar = partial(tqdm, total=len(items), desc=name, unit="utt", disable=None)
    if workers == 0 or not items:
        yield from bar(map(process, items))
        return
    count = min(workers or os.cpu_count() or 1, len(items))
    spawn = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(count, spawn, torch.set_num_threads, (1,)) as pool:
        try:
            yield from bar(pool.map(process, items, chunksize=4))
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a worker process was killed (out of memory?); run the same command again, it goes on from here"
            ) from error
