"""A server as processes of its own: started, watched through /proc and /metrics, stopped whatever happens."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

STARTING = 120.0  # s, from the command to readiness
STOPPING = 60.0  # s, from SIGTERM to the end, which comes sooner: the grace period is shorter
_LISTENING = "listening on "
_TICKS = os.sysconf("SC_CLK_TCK")  # a second


@dataclass
class Usage:
    """Of all processes of a server."""

    memory: float  # MiB that are resident
    threads: int
    files: int  # descriptors
    cpu: float  # s since they began


class Server:
    """One that answers at `url`.

    Args:
        process: None for a server that somebody else started, of which only the addresses are known.
    """

    def __init__(self, url: str, process: Process | None) -> None:
        self.url = url
        self.process = process

    @property
    def host(self) -> tuple[str, int]:
        address = httpx.URL(self.url)
        return address.host, address.port or 80

    async def metrics(self) -> dict[str, float]:
        """Every line of /metrics."""
        text = (await self._get("/metrics")).text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}

    async def ready(self) -> bool:
        try:
            return (await self._get("/readyz")).status_code == 200
        except httpx.TransportError:
            return False

    async def wait_until_ready(self) -> None:
        """Raises RuntimeError where it never is."""
        try:
            async with asyncio.timeout(STARTING):
                while not await self.ready():
                    if self.process is not None and self.process.returncode is not None:
                        raise RuntimeError(f"the server ended with {self.process.returncode}: its log says why")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise RuntimeError(f"{self.url} is not ready after {STARTING:g} s: look into the server's log") from None

    def processes(self) -> list[int]:
        """The server's, and those that it has started."""
        if self.process is None or self.process.returncode is not None:
            return []
        return list(_with_children(self.process.pid))

    def workers(self) -> list[int]:
        """Of a supervisor."""
        return [pid for pid in self.processes() if b"spawn_main" in _read(pid, "cmdline")]

    def usage(self) -> Usage:
        return _sum([_usage(pid) for pid in self.processes()])

    async def _get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(timeout=30) as client:
            return await client.get(self.url + path)


@asynccontextmanager
async def started(checkpoint: Path, log: Path, *options: object) -> AsyncIterator[Server]:
    """`wavenet serve --checkpoint CHECKPOINT OPTIONS` on a free port; its errors go to `log`.

    Raises:
        RuntimeError: it does not start.
    """
    command = ["-m", "recipes.cli", "serve", "--checkpoint", f"voice={checkpoint}", "--port", "0", *map(str, options)]
    with log.open("w") as errors:
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=PIPE, stderr=errors)
    try:
        yield await _listening(process)
    finally:
        if process.returncode is None:
            process.terminate()
            with _killed_when_late(process):
                async with asyncio.timeout(STOPPING):
                    await process.wait()
        await process.wait()


async def _listening(process: Process) -> Server:
    assert process.stdout is not None
    async with asyncio.timeout(STARTING):
        line = (await process.stdout.readline()).decode()
    if not line.startswith(_LISTENING):
        raise RuntimeError("the server does not listen: its log says why")
    server = Server(line.removeprefix(_LISTENING).strip(), process)
    await server.wait_until_ready()
    return server


@contextmanager
def _killed_when_late(process: Process) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        process.kill()
        if not isinstance(error, TimeoutError):
            raise


def _with_children(pid: int) -> Iterator[int]:
    yield pid
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return
    for child in children:
        yield from _with_children(child)


def _read(pid: int, file: str) -> bytes:
    """Empty for a process that is no more."""
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def _usage(pid: int) -> Usage:
    fields = dict(line.split(":", 1) for line in _read(pid, "status").decode().splitlines() if ":" in line)
    times = _read(pid, "stat").rpartition(b")")[2].split()[11:13]  # user, system
    try:
        files = sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        files = 0
    memory = int(fields.get("VmRSS", "0 kB").split()[0]) / 1024
    return Usage(memory, int(fields.get("Threads", 0)), files, sum(map(int, times)) / _TICKS)


def _sum(parts: list[Usage]) -> Usage:
    return Usage(
        sum(part.memory for part in parts),
        sum(part.threads for part in parts),
        sum(part.files for part in parts),
        sum(part.cpu for part in parts),
    )
