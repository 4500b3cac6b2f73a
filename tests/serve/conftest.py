"""A vocoder that never learnt anything, and mels for it.

Quick runs try few examples of what hypothesis thinks of: HYPOTHESIS_PROFILE=thorough tries thousands.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

from data.mel import MelConfig, log_mel
from serve import Vocoder

EXAMPLES = {"quick": 25, "thorough": 3000}[os.environ.get("HYPOTHESIS_PROFILE", "quick")]
settings.register_profile("serve", max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

Speech = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="session")
def toy_vocoder(toy_student: Path) -> Vocoder:
    return Vocoder.from_pretrained(toy_student, device="cpu")


@pytest.fixture(scope="session")
def toy_utterance(toy_mel: MelConfig, toy_speech: Speech) -> Callable[..., NDArray[np.float32]]:
    """The mel (M, L) of something said."""

    def utterance(frames: int, seed: int = 0) -> NDArray[np.float32]:
        wav = toy_speech(frames * toy_mel.hop_length / toy_mel.sample_rate, seed=seed)
        return log_mel(torch.from_numpy(wav), toy_mel).numpy()

    return utterance


@dataclass
class Server:
    """A server as a process of its own."""

    process: subprocess.Popen[str]
    url: str
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        for _ in range(600):
            if holds():
                return
            time.sleep(0.1)
        raise AssertionError(
            f"in a minute there was no {what}; the server says {self.process.poll()}\n{self.log.read_text()}"
        )

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return self.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        self.wait_until(ready, "readiness")

    def counted(self, name: str) -> float:
        """The sum of all lines of a metric."""
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith((name + " ", name + "{")))

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        """The exit code of a server that has been told to stop."""
        self.process.communicate(timeout=120)
        return self.process.returncode


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """`wavenet serve ARGUMENTS` on a free port, every warning an error; stopped in the end at the latest.

    Its processes are a group of their own, as a terminal's are.
    """
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object, wait: bool = True) -> Server:
        command = [sys.executable, "-W", "error", "-m", "recipes.cli", "serve", "--port", "0", *map(str, arguments)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = tmp_path_factory.mktemp("server") / "log"
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
            )
        started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        server = Server(process, line.removeprefix("listening on ").strip(), log)
        if wait:
            server.wait_until_ready()
        return server

    yield start
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=60)
