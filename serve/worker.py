"""One server process: uvicorn around the application, and what signals do.

SIGTERM and SIGINT: what runs is finished within the grace period, or broken off at its end; what comes is refused with
503; once more: at once, unless there is a supervisor, who decides on that.
SIGHUP: the checkpoints are read again.
"""

import asyncio
import copy
import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from functools import partial
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import LOGGING_CONFIG

from serve.app import create_app
from serve.connection import PatientProtocol, PatientWebSocket
from serve.service import Service
from serve.settings import ServeConfig

BROKEN = 2  # exit code: the models cannot be loaded, and trying again would not help
_LATE = 0.5  # s, for requests that were on their way when the socket was closed
_LAST_CALL = 1  # s, for what is still running after that
_TICK = 0.05  # s
_LOGGING = copy.deepcopy(LOGGING_CONFIG)
_LOGGING["loggers"] = {
    "uvicorn": {"handlers": ["default"], "level": "WARNING", "propagate": False},
    "serve": {"handlers": ["default"], "level": "INFO", "propagate": False},
}


class _Server(uvicorn.Server):
    """uvicorn, but a signal first lets everything come to its end, WebSockets too."""

    def __init__(self, service: Service, parent: BaseProcess | None, load_first: bool) -> None:
        self._service = service
        self._parent = parent
        self._tasks: set[asyncio.Task[None]] = set()
        self.failure: Exception | None = None
        super().__init__(
            uvicorn.Config(
                create_app(service, self._fail, load_first),
                http=partial(PatientProtocol, service.config.patience),  # type: ignore[arg-type]  # a class, says uvicorn; it calls it
                ws=PatientWebSocket,
                ws_max_size=service.config.max_bytes,
                ws_per_message_deflate=False,
                lifespan="on",
                log_config=_LOGGING,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=_LAST_CALL,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._service.reload()))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})  # which the supervisor has held back
        if self._parent is not None:
            loop.add_reader(self._parent.sentinel, self._orphaned)
        await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        self._service.metrics.count_tasks()
        if not self._service.engine.alive and self.failure is None:
            self._fail(RuntimeError("the engine has stopped; the log says why: start the server again"))
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        asyncio.get_event_loop().call_soon_threadsafe(self._stop)

    def _stop(self) -> None:
        if self._service.draining:
            if self._parent is None:
                self.should_exit = self.force_exit = True
            return
        self._service.draining = True
        self._begin(self._drain())

    async def _drain(self) -> None:
        try:
            async with asyncio.timeout(self._service.config.grace):
                while self._service.running:
                    await asyncio.sleep(_TICK)
        except TimeoutError:
            self._service.break_off()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """uvicorn's, which closes connections on which nothing runs, as late as their requests may come."""
        for server in self.servers:
            server.close()
        if self._service.draining and not self.force_exit:
            await asyncio.sleep(_LATE)
        await super().shutdown(sockets)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        self._service.draining = self.should_exit = True
        self._service.break_off()

    def _orphaned(self) -> None:
        assert self._parent is not None
        asyncio.get_running_loop().remove_reader(self._parent.sentinel)
        self._stop()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def listen(config: ServeConfig) -> socket.socket:
    """The socket that the server listens on.

    Raises:
        OSError: the address cannot be had.
    """
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        listening = socket.create_server((config.host, config.port), family=family, backlog=1024)
    except OSError as error:
        raise OSError(
            f"cannot listen on {config.host}:{config.port} ({error.strerror or error}): choose another --host or --port"
        ) from error
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else an answer waits 40 ms for its head to arrive
    return listening


def run(
    config: ServeConfig,
    listening: socket.socket,
    threads: int | None = None,
    parent: BaseProcess | None = None,
    load_first: bool = False,
) -> None:
    """Serve until a signal.

    Args:
        threads: of the engine.
        parent: the supervisor.
        load_first: see `create_app`.

    Raises:
        CheckpointError, ValueError: the models cannot be loaded.
        RuntimeError: the engine has stopped.
    """
    service = Service(config, threads)
    if parent is not None and (supervisor := parent.pid) is not None:
        service.reloaded = lambda: tell_others(supervisor)
    server = _Server(service, parent, load_first)
    gc.freeze()  # else all that was imported is searched for garbage again and again, and nobody is answered meanwhile
    server.run([listening])
    if server.failure is not None:
        raise server.failure


def tell_others(supervisor: int) -> None:
    """The other workers shall follow, if the supervisor still is."""
    if os.getppid() == supervisor:
        os.kill(supervisor, signal.SIGHUP)


def run_under_supervisor(config: ServeConfig, listening: socket.socket, threads: int, load_first: bool) -> None:
    """`run`, as the main function of a process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    try:
        run(config, listening, threads, parent, load_first)
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"wavenet: {error}\n")
        sys.exit(1 if isinstance(error, RuntimeError) else BROKEN)
