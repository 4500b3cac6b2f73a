"""Several workers on one socket, each with its share of the cores. A dead one is replaced.

SIGTERM and SIGINT let all workers finish what they do; once more: they are killed. SIGHUP lets them read the
checkpoints again. A terminal and a service manager signal the workers too, which tells them nothing new.
"""

import logging
import multiprocessing
import os
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from types import FrameType

from prometheus_client import multiprocess

from serve.metrics import MULTIPROCESS
from serve.service import cores
from serve.settings import ServeConfig
from serve.worker import BROKEN, run_under_supervisor

logger = logging.getLogger("serve")
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_HELD_BACK = (signal.SIGINT, signal.SIGHUP)  # from a worker that starts, which they would end
_MARGIN = 5.0  # s beyond the grace period, after which a worker is killed
_SHORT_LIFE = 10.0  # s; who dies sooner is replaced later and later
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 8.0  # s


@dataclass
class _Place:
    """One worker's, whoever holds it."""

    threads: int
    process: BaseProcess | None = None
    processes: int = 0  # that it has had
    started: float = 0.0
    pause: float = 0.0  # before the next one is started


class Supervisor:
    """Keeps `config.workers` processes alive."""

    def __init__(self, config: ServeConfig, listening: socket.socket) -> None:
        self._config, self._listening = config, listening
        share, more = divmod(cores(), config.workers)
        self._places = [_Place(max(1, share + (number < more))) for number in range(config.workers)]
        self._context = multiprocessing.get_context("spawn")
        self._stop_at: float | None = None
        self._code = 0
        self._signals: list[int] = []
        self._reading, self._writing = os.pipe()

    def run(self) -> int:
        """Until a signal. Returns the exit code."""
        for number in _SIGNALS:
            signal.signal(number, self._signalled)
        resource_tracker.ensure_running()  # which lets SIGINT through as it starts
        with tempfile.TemporaryDirectory(prefix="wavenet-metrics-") as shared:
            os.environ[MULTIPROCESS] = shared
            while self._stop_at is None or any(place.process for place in self._places):
                for place in self._places:
                    self._look_after(place)
                sentinels = [place.process.sentinel for place in self._places if place.process]
                if self._reading in wait([*sentinels, self._reading], timeout=_FIRST_PAUSE):
                    os.read(self._reading, 1024)
                while self._signals:
                    self._obey(self._signals.pop(0))
        return self._code

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)
        os.write(self._writing, b".")

    def _obey(self, number: int) -> None:
        if number != signal.SIGHUP:
            self._stop()
            return
        self._tell(signal.SIGHUP)

    def _stop(self) -> None:
        if self._stop_at is not None:
            self._stop_at = time.monotonic()
            return
        self._stop_at = time.monotonic() + self._config.grace + _MARGIN
        self._listening.close()  # the workers' own descriptors remain
        self._tell(signal.SIGTERM)

    def _tell(self, number: int) -> None:
        for place in self._places:
            if place.process and place.process.is_alive() and place.process.pid:
                os.kill(place.process.pid, number)

    def _look_after(self, place: _Place) -> None:
        now, process = time.monotonic(), place.process
        if process is not None and process.is_alive():
            if self._stop_at is not None and now >= self._stop_at:
                process.kill()
            return
        if process is not None:
            process.join()
            multiprocess.mark_process_dead(process.pid)  # type: ignore[no-untyped-call]
            self._lost(place, process, now - place.started)
        if self._stop_at is None and now >= place.started + place.pause:
            self._start(place)

    def _lost(self, place: _Place, process: BaseProcess, life: float) -> None:
        place.process = None
        if self._stop_at is not None:
            return
        logger.error("worker %s ended with %s", process.pid, process.exitcode)
        if process.exitcode == BROKEN and place.processes == 1:  # later the others go on, and it is tried again
            self._code = BROKEN
            self._stop()
        short = life < _SHORT_LIFE
        place.pause = life + min(_LONGEST_PAUSE, max(_FIRST_PAUSE, 2 * place.pause)) if short else 0.0

    def _start(self, place: _Place) -> None:
        os.environ["OMP_NUM_THREADS"] = str(place.threads)
        place.process = self._context.Process(
            target=run_under_supervisor, args=(self._config, self._listening, place.threads, place.processes > 0)
        )
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
        place.process.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
        place.started = time.monotonic()
        place.processes += 1
