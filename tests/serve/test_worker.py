"""One server process, in this one: what ends it, and whom it tells of a reload."""

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve.engine import Engine
from serve.metrics import Metrics
from serve.settings import ServeConfig
from serve.worker import listen, run, tell_others


@pytest.fixture
def config(toy_student: Path) -> Iterator[ServeConfig]:
    yield ServeConfig({"ada": toy_student}, device="cpu", port=0)
    gc.unfreeze()


def test_a_process_whose_engine_has_died_ends(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a supervisor, or a service manager, begins another."""

    def die(self: Engine) -> None:
        raise MemoryError

    monkeypatch.setattr(Engine, "_next", die)
    with listen(config) as listening, pytest.raises(RuntimeError, match="the engine has stopped"):
        run(config, listening)


def test_the_tasks_are_counted_without_being_asked_for(config: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another worker is asked for the sum of all."""
    seen: list[float] = []
    count = Metrics.count_tasks

    def spy(self: Metrics) -> None:
        count(self)
        seen.append(self.tasks._value.get())
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Metrics, "count_tasks", spy)
    with listen(config) as listening:
        run(config, listening)
    assert seen[0] >= 1


@pytest.mark.parametrize(("parent", "told"), [(os.getppid(), [(os.getppid(), signal.SIGHUP)]), (os.getppid() + 1, [])])
def test_only_the_supervisor_is_told_of_a_reload(
    monkeypatch: pytest.MonkeyPatch, parent: int, told: list[tuple[int, int]]
) -> None:
    """Who has lost it belongs to another process, to which the signal would be an order to end."""
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "kill", lambda *order: sent.append(order))
    tell_others(parent)
    assert sent == told
