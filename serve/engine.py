"""The one thread that computes: utterances take turns, piece by piece.

A new utterance has its first turn next, with a small piece, so that its sound begins soon; then all of a batch get
equally many samples (start-time fair queueing, Goyal et al. 1996), so that a long one never keeps a short one waiting
for longer than a piece. With an empty queue nothing waits. Where pieces are computed in real batches (on a GPU) one
turn is for all of one model, whoever of them it belongs to.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from serve.metrics import Metrics
from serve.problems import busy
from serve.streaming import VocoderStream

Wave = NDArray[np.float32]
logger = logging.getLogger("serve")


class Job:
    """One utterance, as the event loop sees it: mel in, waveform out. See `Engine.speak`."""

    def __init__(self, stream: VocoderStream, wake: threading.Condition) -> None:
        self.stream = stream  # the engine's thread alone touches it
        self.frames = 0  # that were fed
        self.seconds = 0.0  # of computing
        self.clock = 0  # of its next piece, in samples: see `Engine._turn`
        self._wake = wake
        self._fed: deque[Tensor | None] = deque()
        self._said: asyncio.Queue[Wave | Exception | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def feed(self, mel: Tensor) -> None:
        """More frames (M, n), already checked."""
        self.frames += mel.shape[1]
        self._hand_over(mel)

    def end(self) -> None:
        """There are no more frames; there was at least one."""
        assert self.frames
        self._hand_over(None)

    def fail(self, error: Exception) -> None:
        """`pieces` ends with this."""
        self._said.put_nowait(error)

    async def pieces(self) -> AsyncIterator[Wave]:
        """The waveform (T,), as it becomes ready, until the end of the utterance."""
        while (said := await self._said.get()) is not None:
            if isinstance(said, Exception):
                raise said
            yield said

    @property
    def stirs(self) -> bool:
        """Whether there is something to do for the engine."""
        return bool(self._fed) or self.stream.ready > 0

    def take_in(self) -> None:
        """What was fed goes into the stream."""
        while self._fed:
            mel = self._fed.popleft()
            if mel is None:
                self.stream.end()
            else:
                self.stream.append(mel)

    def deliver(self, said: Wave | Exception | None) -> None:
        """To the event loop, from the engine's thread."""
        try:
            self._loop.call_soon_threadsafe(self._said.put_nowait, said)
        except RuntimeError:  # the loop has ended: nobody waits any more
            logger.debug("an utterance ended after its event loop")

    def _hand_over(self, mel: Tensor | None) -> None:
        self._fed.append(mel)
        with self._wake:
            self._wake.notify()


class Engine:
    """Computes for all requests of one process.

    Args:
        batch: utterances that take turns.
        queue: utterances that may wait for that.
        threads: that one piece is computed with on a CPU.
    """

    def __init__(self, batch: int, queue: int, threads: int, metrics: Metrics) -> None:
        self._batch, self._capacity, self._threads, self._metrics = batch, batch + queue, threads, metrics
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._stopped = False
        self._clock = 0  # of the last piece, in samples
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def full(self) -> bool:
        return len(self._jobs) >= self._capacity

    @property
    def jobs(self) -> int:
        """Utterances in the house."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after its present piece."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    @contextmanager
    def speak(self, stream: VocoderStream) -> Iterator[Job]:
        """A place for an utterance, given back on leaving, whatever is still to be said.

        Raises:
            Problem: 429, there is none.
        """
        job = Job(stream, self._changed)
        with self._changed:
            if self.full:
                raise busy(f"{self._capacity} utterances are being spoken or wait already: come back later")
            self._jobs.append(job)
        try:
            yield job
        finally:
            self._leave(job)

    def _leave(self, job: Job) -> None:
        with self._changed:
            if job in self._jobs:
                self._jobs.remove(job)

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while jobs := self._next():
                self._advance(jobs)
        except Exception:  # the process is to end then
            logger.exception("the engine has stopped")

    def _next(self) -> list[Job]:
        """Whose turn it is, as soon as there is one; empty when the engine has been stopped.

        The lock is held for no longer than a look at the list: the event loop waits for it.
        """
        while jobs := self._stirring():
            ready = [job for job in jobs if self._take_in(job) and job.stream.ready]
            self._metrics.queue.set(max(0, len(ready) - self._batch))
            if ready:
                return self._turn(ready[: self._batch])
        return []

    def _stirring(self) -> list[Job]:
        """Who has something to be done, as soon as there is somebody."""
        with self._changed:
            if not any(job.stirs for job in self._jobs):
                self._metrics.queue.set(0)
            self._changed.wait_for(lambda: self._stopped or any(job.stirs for job in self._jobs))
            return [] if self._stopped else [job for job in self._jobs if job.stirs]

    def _take_in(self, job: Job) -> bool:
        """Whether it could be done."""
        try:
            job.take_in()
        except Exception as error:
            self._fail([job], error)
            return False
        return True

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        logger.error("an utterance could not be spoken", exc_info=error)
        for job in jobs:
            job.deliver(error)
            self._leave(job)

    def _turn(self, batch: list[Job]) -> list[Job]:
        """The one whose clock is behind, at first who has not spoken yet.

        Who had nothing to be said for a while is none the better off for it.
        """
        self._metrics.batch.observe(len(batch))
        for job in batch:
            job.clock = max(job.clock, self._clock)
        first = min(batch, key=lambda job: (job.clock, job.seconds > 0))
        self._clock = first.clock
        student = first.stream.student
        if student.packed is not None:
            return [first]
        return [job for job in batch if job.stream.student is student]

    def _advance(self, jobs: list[Job]) -> None:
        began, made = time.perf_counter(), [job.stream.made for job in jobs]
        try:
            pieces = jobs[0].stream.student.advance([job.stream for job in jobs])
            waves = [piece.cpu().numpy() for piece in pieces]
        except Exception as error:  # whatever it was, the others go on
            self._fail(jobs, error)
            return
        seconds = (time.perf_counter() - began) / len(jobs)
        for job, wave, so_far in zip(jobs, waves, made, strict=True):
            job.clock += job.stream.made - so_far
            job.seconds += seconds
            self._metrics.samples.inc(len(wave))
            if len(wave):
                job.deliver(wave)
            if job.stream.done:
                job.deliver(None)
                self._leave(job)
