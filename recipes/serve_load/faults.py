"""Clients, workers and bodies that misbehave. After each of them the server still says what is right."""

import asyncio
import os
import pickle
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np

from recipes.serve_load.asking import FILE, NPY, RIGHT, STREAM, Asker, Question, Reply, npy, refusal, wrong
from recipes.serve_load.server import STARTING, Server, started

WORKERS, PATIENCE, GRACE, MOST = 2, 2, 30, 2**23  # processes; s; s; bytes
OPTIONS = ("--workers", WORKERS, "--patience", PATIENCE, "--grace", GRACE, "--max-bytes", MOST)
CLIENTS = 4  # who ask all the time while something else happens
CROWD = 200  # more than there are places
_LEAVING = 16  # clients
_FRAMES = 5100  # of an utterance that nobody hears to its end
_LONGEST = 180.0  # s for a fault and what follows
_SOON = 30.0  # s until something has happened
_BREAK = {"ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}  # what a dead worker's clients see
Found = tuple[list[str], list[str]]  # outcomes, and what is wrong with them


class Faults:
    """One server, which all of it happens to.

    Args:
        long: an utterance that takes a while.
        log: of the server.
    """

    def __init__(self, server: Server, asker: Asker, long: Question, log: Path) -> None:
        self.server, self.asker, self._log = server, asker, log
        self._long = Asker(server.url, [long], asker.speaker)
        mel = self.asker.questions[0].mel
        self._unread = np.tile(mel, (1, _FRAMES // mel.shape[1]))
        self._samples = self._unread.shape[1] * len(self.asker.questions[0].wav) // mel.shape[1]
        self._fresh = Asker(server.url, asker.questions, asker.speaker, keep=False)

    async def close(self) -> None:
        await self._long.http.aclose()
        await self._fresh.http.aclose()

    async def crowd(self) -> Found:
        """Many at once: some are answered, the others are told to come back."""
        return _judged(await asyncio.gather(*(self.asker.ask(*self.asker.next()) for _ in range(CROWD))), "429")

    async def clients_killed_mid_stream(self) -> Found:
        """Connections are reset once their first samples have come: that frees the places."""
        return _counted(await asyncio.gather(*(self._leave() for _ in range(_LEAVING))), "200")

    async def clients_that_do_not_read(self) -> Found:
        """An answer that nobody takes is broken off."""
        with closing(self._connect(buffer=4096)) as silent:
            silent.setblocking(False)
            await asyncio.get_running_loop().sock_sendall(silent, self._request(STREAM))
            await asyncio.sleep(PATIENCE + 1)
            await _until(self._idle, "end of an answer that nobody reads")
            came = await asyncio.to_thread(_rest, silent)
        return ["broken off" if came < 4 * self._samples else "taken by the system's buffers"], []

    async def slow_bodies(self) -> Found:
        """A byte a second is too slow."""
        return _counted([await self._trickle()], "408")

    async def oversize_bodies(self) -> Found:
        """Announced, and unannounced but counted."""
        announced = await self._raw(b"Content-Length: %d\r\n\r\n" % (MOST + 1))
        chunk = b"%x\r\n%s\r\n" % (2**16, bytes(2**16))
        endless = await self._raw(b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (MOST // 2**16 + 1))
        return _counted([announced, endless], "413")

    async def broken_npy(self) -> Found:
        """Each is refused with its reason, and none is unpickled."""
        answers = [
            await self.asker.http.post(path, content=content, headers=NPY)
            for content in broken(self.asker.questions[0].mel)
            for path in (FILE, STREAM)
        ]
        return _counted([refusal(answer.status_code, answer.headers) for answer in answers], "422")

    async def a_worker_killed(self) -> Found:
        """Only what it was just saying is lost, and another takes its place; meanwhile the others are enough."""
        await _until(self._speaking(WORKERS), "second worker", STARTING)
        victim = self.server.workers()[0]

        async def happen() -> None:
            await asyncio.sleep(1)
            os.kill(victim, signal.SIGKILL)
            await _until(self._speaking(WORKERS + 1), "new worker", STARTING)
            await asyncio.sleep(1)

        replies = await self._while_asking(self._fresh, happen)
        outcomes, found = _judged(replies, *_BREAK)
        lost = sum(reply.outcome in _BREAK for reply in replies)
        return outcomes, found + [f"{lost} requests were lost, of {CLIENTS} at a time"] * (lost > CLIENTS)

    async def sigterm_under_load(self) -> Found:
        """What runs is finished, what comes is refused, and the exit code is 0."""
        process = self.server.process
        assert process is not None
        streams = [asyncio.create_task(self._long.ask(0, STREAM)) for _ in range(CLIENTS)]
        await _until(self._all_run(streams), "stream")

        async def happen() -> None:
            await asyncio.sleep(0.5)
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), GRACE + 10)

        replies = await self._while_asking(self.asker, happen)
        outcomes, found = _judged(replies, "503", *_BREAK)
        cut = [reply for reply in replies if reply.first is not None and reply.outcome in _BREAK]
        running, more = _judged(await asyncio.gather(*streams))
        code = [] if process.returncode == 0 else [f"the exit code is {process.returncode}"]
        return outcomes + running, found + more + code + ["an answer was cut off"] * len(cut)

    async def speaks(self) -> list[str]:
        """What is wrong afterwards."""
        await _until(self._idle, "end of all requests")
        return [f"afterwards: {outcome}" for outcome in wrong(await self.asker.all())]

    async def _while_asking(self, asker: Asker, happen: Callable[[], Awaitable[None]]) -> list[Reply]:
        over = asyncio.Event()

        async def client() -> list[Reply]:
            replies = []
            while not over.is_set():
                replies.append(await asker.ask(*asker.next()))
                if replies[-1].outcome != RIGHT:
                    await asyncio.sleep(0.05)
            return replies

        clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
        try:
            await happen()
        finally:
            over.set()
        return [reply for own in await asyncio.gather(*clients) for reply in own]

    async def _idle(self) -> bool:
        return (await self.server.metrics()).get("wavenet_running_requests", 0) == 0

    def _speaking(self, times: int) -> Callable[[], Awaitable[bool]]:
        """Whether so many workers have said that they are ready."""

        async def speaking() -> bool:
            return self._log.read_text().count("speaking: voice") >= times

        return speaking

    def _all_run(self, streams: list[asyncio.Task[Reply]]) -> Callable[[], Awaitable[bool]]:
        async def run() -> bool:
            running = (await self.server.metrics()).get("wavenet_running_requests", 0)
            return running >= len(streams) or any(stream.done() for stream in streams)

        return run

    def _connect(self, buffer: int | None = None) -> socket.socket:
        connection = socket.socket(socket.AF_INET)
        if buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        connection.connect(self.server.host)
        return connection

    def _request(self, path: str) -> bytes:
        body, speaker = npy(self._unread), self.asker.speaker
        address = f"{path}?format=f32" + ("" if speaker is None else f"&speaker={quote(speaker)}")
        return _head(address) + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def _leave(self) -> str:
        reader, writer = await asyncio.open_connection(*self.server.host)
        writer.write(self._request(STREAM))
        status = await _status(reader)
        await reader.readuntil(b"\r\n\r\n")
        await reader.read(1)
        writer.transport.abort()
        return status

    async def _trickle(self) -> str:
        reader, writer = await asyncio.open_connection(*self.server.host)
        writer.write(_head(FILE) + b"Content-Length: 100\r\n\r\n")
        answer = asyncio.create_task(_status(reader))
        while not answer.done():
            writer.write(b"1")
            await asyncio.wait([answer], timeout=1)
        writer.transport.abort()
        return answer.result()

    async def _raw(self, rest: bytes) -> str:
        """The status of an answer that may come before the request has been sent."""
        reader, writer = await asyncio.open_connection(*self.server.host)
        writer.write(_head(FILE) + rest)
        status = await _status(reader)
        writer.transport.abort()
        return status


def broken(mel: np.ndarray[Any, np.dtype[np.float32]]) -> list[bytes]:
    """No `.npy` files of a mel, though most begin like one."""
    whole, holed = npy(mel), mel.copy()
    holed[0, 0] = np.nan
    objects = np.lib.format.magic(1, 0) + b"\x76\x00"
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"
    objects += header.ljust(0x75) + b"\n" + pickle.dumps([Path("x")])
    return [
        b"",
        whole[:100],
        whole[:-1],
        whole + b"0",
        b"PK\x03\x04" + whole,
        objects,
        npy(holed),
        npy(mel.T),
        npy(mel[:-1]),
        npy(mel[:, :0]),
        npy(8.7 * mel - 100),
        npy(mel.astype(np.int32)),
        whole.replace(b"fortran_order", b"fortran_odour"),
        bytes(len(whole)),
    ]


async def faults(checkpoint: Path, asked: list[Question], long: Question, speaker: str | None, log: Path) -> Any:
    """All of them, the last of which ends the server.

    Returns:
        For each: how often which outcome came, and what was found to be wrong.
    """
    async with started(checkpoint, log, *OPTIONS) as server, Asker(server.url, asked, speaker) as asker:
        on = Faults(server, asker, long, log)
        happening: list[Callable[[], Awaitable[Found]]] = [
            on.crowd,
            on.clients_killed_mid_stream,
            on.clients_that_do_not_read,
            on.slow_bodies,
            on.oversize_bodies,
            on.broken_npy,
            on.a_worker_killed,
        ]
        rows = [await _tried(happen, on.speaks) for happen in happening]
        rows.append(await _tried(on.sigterm_under_load, None))
        await on.close()
    failures = log.read_text().count("Traceback")
    found = [f"{failures} in {log}"] if failures else []
    return [*rows, {"fault": "exceptions in the log", "seconds": 0.0, "outcomes": {}, "found": found}]


async def _tried(happen: Callable[[], Awaitable[Found]], speaks: Callable[[], Awaitable[list[str]]] | None) -> Any:
    began = time.perf_counter()
    outcomes: list[str] = []
    found: list[str] = []
    try:
        async with asyncio.timeout(_LONGEST):
            outcomes, found = await happen()
            if speaks is not None:
                found += await speaks()
    except (TimeoutError, RuntimeError, OSError, EOFError, httpx.TransportError) as error:
        found = [*found, f"{type(error).__name__}: {error}"]
    name = getattr(happen, "__name__", "").replace("_", " ")
    seconds = time.perf_counter() - began
    return {"fault": name, "seconds": seconds, "outcomes": dict(Counter(outcomes)), "found": found}


def _judged(replies: list[Reply], *allowed: str) -> Found:
    return [reply.outcome for reply in replies], wrong(replies, *allowed)


def _counted(statuses: list[str], expected: str) -> Found:
    return statuses, [f"{status} instead of {expected}" for status in statuses if status != expected]


def _head(address: str) -> bytes:
    return f"POST {address} HTTP/1.1\r\nHost: here\r\nContent-Type: application/x-npy\r\n".encode()


def _rest(connection: socket.socket) -> int:
    """Bytes until its end."""
    connection.settimeout(_SOON)
    try:
        return sum(map(len, iter(lambda: connection.recv(2**16), b"")))
    except ConnectionResetError:
        return 0


async def _status(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(_SOON):
        return (await reader.readuntil(b"\r\n")).split()[1].decode()


async def _until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = _SOON) -> None:
    end = time.perf_counter() + seconds
    while not await holds():
        if time.perf_counter() > end:
            raise RuntimeError(f"in {seconds:g} s there was no {what}")
        await asyncio.sleep(0.05)
