"""The engine without the server around it: what the same cores make of the same utterances when nobody sends bytes."""

import asyncio
import multiprocessing
import os
import time
from itertools import count
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from serve import Vocoder
from serve.engine import Engine
from serve.metrics import Metrics
from serve.service import cores
from serve.settings import ServeConfig

Spoken = list[tuple[NDArray[np.float32], int]]  # mels (M, L) and seeds
_LOADING = 120.0  # s that the processes may take beside the measurement
_HELD_BACK = 3  # the first third of a measurement is not counted: until then the batch fills up


def bare_throughput(checkpoint: Path, spoken: Spoken, workers: int, seconds: float) -> float:
    """Samples/s of as many engines as the server has, each in a process with its share of the cores.

    Raises:
        RuntimeError: they did not come to an end.
    """
    share, more = divmod(cores(), workers)
    shares = [max(1, share + (number < more)) for number in range(workers)]
    before = os.environ.get("OMP_NUM_THREADS")
    if workers > 1:
        os.environ["OMP_NUM_THREADS"] = str(shares[0])
    try:
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            tasks = [(checkpoint, spoken, threads, seconds) for threads in shares]
            return sum(pool.starmap_async(_measure, tasks, chunksize=1).get(_LOADING + seconds))
    except multiprocessing.TimeoutError:
        raise RuntimeError(f"the bare engine did not end within {_LOADING + seconds:g} s") from None
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before


def _measure(checkpoint: Path, spoken: Spoken, threads: int, seconds: float) -> float:
    vocoder = Vocoder.from_pretrained(checkpoint)
    for _ in vocoder.stream([spoken[0][0]], speaker=next(iter(vocoder.speakers), None)):
        pass  # what is made on first use is made
    engine = Engine(ServeConfig.batch, ServeConfig.queue, threads, Metrics())
    engine.start()
    try:
        return asyncio.run(_speak(engine, vocoder, spoken, seconds))
    finally:
        engine.stop()


async def _speak(engine: Engine, vocoder: Vocoder, spoken: Spoken, seconds: float) -> float:
    """The batch is always full, and one after each waits."""
    began, turns, samples = time.perf_counter(), count(), 0
    speaker = next(iter(vocoder.speakers), None)

    async def one() -> None:
        nonlocal samples
        while time.perf_counter() < began + seconds:
            mel, seed = spoken[next(turns) % len(spoken)]
            with engine.speak(vocoder.begin(seed=seed, speaker=speaker)) as job:
                job.feed(vocoder.frames(mel))
                job.end()
                async for piece in job.pieces():
                    if began + seconds / _HELD_BACK < time.perf_counter() < began + seconds:
                        samples += len(piece)

    await asyncio.gather(*(one() for _ in range(2 * ServeConfig.batch)))
    return samples / (seconds - seconds / _HELD_BACK)
