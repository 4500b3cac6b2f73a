"""Clients, workers and bodies that misbehave. After each of them the server still says what is right."""

import asyncio
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import numpy as np
from websockets.exceptions import WebSocketException

from recipes.serve_load.asking import FILE, NPY, RIGHT, STREAM, Asker, Question, Reply, npy, refusal, wrong
from recipes.serve_load.clients import (
    END,
    SAMPLES,
    SOON,
    broken,
    converses,
    frames,
    head,
    leaves,
    leaves_conversation,
    rude,
    sends,
    silent,
    silent_in_conversation,
    start,
    trickles,
)
from recipes.serve_load.server import STARTING, Server, started

WORKERS, PATIENCE, GRACE, MOST, LONGEST = 2, 2, 30, 2**23, 300  # processes; s; s; bytes; s of sound
LIMITS = {"workers": WORKERS, "patience": PATIENCE, "grace": GRACE, "max-bytes": MOST, "max-seconds": LONGEST}
CLIENTS = 4  # who ask all the time while something else happens
CROWD = 200  # more than there are places
_LEAVING = 16  # clients
_UNREAD = 2**21  # samples of an utterance that nobody hears to its end; as float32 more than the system keeps for them
_FILLING = 120.0  # s until what nobody reads has been computed as far as the system keeps it
_TICK, _LOOKS = 0.1, 10  # s; times
_LATEST = 180.0  # s for a fault and what follows
_BREAK = {"ConnectError", "ReadError", "RemoteProtocolError", "WriteError"}  # what a dead worker's clients see
_BREAK |= {"ConnectionClosedError", "ConnectionRefusedError", "ConnectionResetError", "InvalidMessage"}
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
        mel, hop = asker.questions[0].mel, len(asker.questions[0].wav) // asker.questions[0].mel.shape[1]
        self._unread = np.tile(mel, (1, -(-_UNREAD // hop // mel.shape[1])))
        self._begin = start(**({} if asker.speaker is None else {"speaker": asker.speaker}))
        self._fresh = Asker(server.url, asker.questions, asker.speaker, keep=False)
        self._files = sys.maxsize  # descriptors, when nobody is there

    async def begin(self) -> None:
        """Learn what the server holds when nobody is there."""
        await _until(self._has_loaded(WORKERS), "second worker", STARTING)
        await self._fresh.all()
        await _until(self._idle, "end of all requests")
        for _ in range(_LOOKS):  # connections end a moment after their clients have left
            await asyncio.sleep(_TICK)
            self._files = min(self._files, await self._held())

    async def close(self) -> None:
        await self._long.close()
        await self._fresh.close()

    async def crowd(self) -> Found:
        """Many at once: some are answered, the others are told to come back."""
        return _judged(await asyncio.gather(*(self.asker.ask(*self.asker.next()) for _ in range(CROWD))), "429")

    async def clients_killed_mid_stream(self) -> Found:
        """Connections are reset once their first samples have come: that frees the places."""
        leaving = (leaves(self.server, self._long_request()) for _ in range(_LEAVING))
        return _counted(await asyncio.gather(*leaving), "200")

    async def conversations_killed_mid_stream(self) -> Found:
        """The same over WebSockets."""
        said = (self._begin, frames(self._unread))
        leaving = (leaves_conversation(self.server, *said) for _ in range(_LEAVING))
        return _counted(await asyncio.gather(*leaving), SAMPLES)

    async def clients_that_do_not_read(self) -> Found:
        """One stays, but nothing is kept for it."""
        return await self._forgotten(silent(self.server, self._long_request()), "200")

    async def conversations_that_do_not_read(self) -> Found:
        """The same over WebSockets."""
        said = (self._begin, frames(self._unread), END)
        return await self._forgotten(silent_in_conversation(self.server, *said), SAMPLES)

    async def rude_conversations(self) -> Found:
        """Each is broken off with its reason."""
        wanted, said = zip(*rude(self._begin, self.asker.questions[0].mel, self._unread), strict=True)
        came = await asyncio.gather(*(converses(self.server, *messages) for messages in said))
        pairs = zip(came, wanted, strict=True)
        return list(came), [f"{one} instead of {other}" for one, other in pairs if one != other]

    async def slow_bodies(self) -> Found:
        """A byte a second is too slow."""
        return _counted([await trickles(self.server, FILE)], "408")

    async def oversize_bodies(self) -> Found:
        """Announced, and unannounced but counted."""
        announced = await sends(self.server, head(FILE) + b"Content-Length: %d\r\n\r\n" % (MOST + 1))
        chunk = b"%x\r\n%s\r\n" % (2**16, bytes(2**16))
        endless = head(FILE) + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * (MOST // 2**16 + 1)
        return _counted([announced, await sends(self.server, endless)], "413")

    async def broken_npy(self) -> Found:
        """Each is refused with its reason, and none is unpickled."""
        answers = [
            await self.asker.http.post(path, content=content, headers=NPY)
            for content in broken(self.asker.questions[0].mel)
            for path in (FILE, STREAM)
        ]
        return _counted([refusal(answer.status_code, answer.headers) for answer in answers], "422")

    async def reload_under_load(self) -> Found:
        """Nobody notices."""
        process, loaded = self.server.process, self._loaded()
        assert process is not None

        async def happen() -> None:
            process.send_signal(signal.SIGHUP)
            await _until(self._has_loaded(loaded + WORKERS), "reload", STARTING)

        return _judged(await self._while_asking(self._fresh, happen))

    async def a_worker_killed(self) -> Found:
        """Only what it was just saying is lost, and another takes its place; meanwhile the others are enough."""
        victim, loaded = self.server.workers()[0], self._loaded()

        async def happen() -> None:
            await asyncio.sleep(1)
            os.kill(victim, signal.SIGKILL)
            await _until(self._has_loaded(loaded + 1), "new worker", STARTING)
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
        said = [f"afterwards: {outcome}" for outcome in wrong(await self._fresh.all())]
        await _until(self._closed, "end of all connections")
        return said

    async def _forgotten(self, client: AbstractAsyncContextManager[str], expected: str) -> Found:
        """The server closes the connection of a client who stays."""
        async with client as began:
            await _until(self._idle, "end of an answer that nobody reads", _FILLING)
            await _until(self._closed, "end of a connection on which nobody reads")
        return _counted([began], expected)

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

    async def _held(self) -> int:
        return (await asyncio.to_thread(self.server.usage)).files

    async def _closed(self) -> bool:
        return await self._held() <= self._files

    def _loaded(self) -> int:
        """How often a worker has said that it is ready."""
        return self._log.read_text().count("speaking: voice")

    def _has_loaded(self, times: int) -> Callable[[], Awaitable[bool]]:
        async def loaded() -> bool:
            return self._loaded() >= times

        return loaded

    def _all_run(self, streams: list[asyncio.Task[Reply]]) -> Callable[[], Awaitable[bool]]:
        async def run() -> bool:
            running = (await self.server.metrics()).get("wavenet_running_requests", 0)
            return running >= len(streams) or any(stream.done() for stream in streams)

        return run

    def _long_request(self) -> bytes:
        body, speaker = npy(self._unread), self.asker.speaker
        address = f"{STREAM}?format=f32" + ("" if speaker is None else f"&speaker={quote(speaker)}")
        return head(address) + b"Content-Length: %d\r\n\r\n" % len(body) + body


async def faults(checkpoint: Path, asked: list[Question], long: Question, speaker: str | None, log: Path) -> Any:
    """All of them, the last of which ends the server.

    Returns:
        For each: how often which outcome came, and what was found to be wrong.
    """
    options = [said for name, value in LIMITS.items() for said in (f"--{name}", value)]
    async with started(checkpoint, log, *options) as server, Asker(server.url, asked, speaker) as asker:
        on = Faults(server, asker, long, log)
        happening: list[Callable[[], Awaitable[Found]]] = [
            on.crowd,
            on.clients_killed_mid_stream,
            on.conversations_killed_mid_stream,
            on.clients_that_do_not_read,
            on.conversations_that_do_not_read,
            on.rude_conversations,
            on.slow_bodies,
            on.oversize_bodies,
            on.broken_npy,
            on.reload_under_load,
            on.a_worker_killed,
        ]
        await on.begin()
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
        async with asyncio.timeout(_LATEST):
            outcomes, found = await happen()
            if speaks is not None:
                found += await speaks()
    except (TimeoutError, RuntimeError, OSError, EOFError, WebSocketException, httpx.TransportError) as error:
        found = [*found, f"{type(error).__name__}: {error}"]
    name = getattr(happen, "__name__", "").replace("_", " ")
    seconds = time.perf_counter() - began
    return {"fault": name, "seconds": seconds, "outcomes": dict(Counter(outcomes)), "found": found}


def _judged(replies: list[Reply], *allowed: str) -> Found:
    return [reply.outcome for reply in replies], wrong(replies, *allowed)


def _counted(statuses: list[str], expected: str) -> Found:
    return statuses, [f"{status} instead of {expected}" for status in statuses if status != expected]


async def _until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = SOON) -> None:
    end = time.perf_counter() + seconds
    while not await holds():
        if time.perf_counter() > end:
            raise RuntimeError(f"in {seconds:g} s there was no {what}")
        await asyncio.sleep(0.05)
