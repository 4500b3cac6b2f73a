"""Clients that are slow, gone, or silent."""

import asyncio
import contextlib
import functools
import logging
import select
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Message

import serve.connection
from serve.connection import PatientProtocol, PatientWebSocket, connected, read_body
from serve.problems import ClientGone, Problem
from serve.settings import ServeConfig
from serve.worker import listen


def request(*chunks: Message, **headers: str) -> Request:
    """One whose client sends these messages, and then nothing more."""
    left = list(chunks)

    async def receive() -> Message:
        return left.pop(0) if left else await asyncio.Future()

    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "POST", "headers": raw}, receive)


def part(content: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


def read(asked: Request, most: int = 10, patience: float = 30.0) -> bytes:
    return asyncio.run(read_body(asked, most, patience))


def test_a_body_is_its_parts() -> None:
    assert read(request(part(b"ab"), part(b"cd", more=False), content_length="4")) == b"abcd"


def test_a_body_that_does_not_end_is_given_up() -> None:
    with pytest.raises(Problem, match=r"within 0.05 s") as raised:
        read(request(part(b"ab")), patience=0.05)
    assert (raised.value.status, raised.value.headers) == (408, {"Connection": "close"})


@pytest.mark.parametrize("announced", ["11", "x", "-1", "1" * 5000])
def test_a_body_is_refused_by_its_announcement(announced: str) -> None:
    with pytest.raises(Problem, match="limit of 10 bytes") as raised:
        read(request(content_length=announced))
    assert raised.value.status == 413


def test_a_body_is_refused_when_it_has_become_too_long() -> None:
    with pytest.raises(Problem, match="limit of 10 bytes"):
        read(request(part(b"12345"), part(b"123456"), content_length="5"))


def test_a_client_that_goes_within_the_body_is_gone() -> None:
    with pytest.raises(ClientGone):
        read(request(part(b"ab"), {"type": "http.disconnect"}))


def test_work_is_broken_off_when_the_client_goes() -> None:
    async def work(asked: Request) -> str:
        async with connected(asked.receive):
            await asyncio.sleep(30)
        return "done"

    with pytest.raises(ClientGone):
        asyncio.run(asyncio.wait_for(work(request({"type": "http.disconnect"})), 10))


def test_work_for_a_client_that_stays_is_not_disturbed() -> None:
    async def work(asked: Request) -> str:
        async with connected(asked.receive):
            await asyncio.sleep(0.01)
        with pytest.raises(TimeoutError):
            async with connected(asked.receive):
                raise TimeoutError
        return "done"

    assert asyncio.run(work(request())) == "done"


@contextlib.asynccontextmanager
async def serving(app: Any, patience: float = 60.0) -> AsyncIterator[int]:
    """The port of a server in this thread, which can hand hardly anything over to the system's buffers."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        http, ws = functools.partial(PatientProtocol, patience), PatientWebSocket
        config = uvicorn.Config(app, http=http, ws=ws, lifespan="off", log_level="error")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        server.capture_signals = lambda: contextlib.nullcontext()  # type: ignore[method-assign, assignment, return-value]
        work = asyncio.create_task(server.serve([listening]))
        try:
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            await work


async def everything_said(port: int, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return answer


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


async def slow(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(0.5)
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


def test_a_connection_on_which_no_request_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.connection, "HEAD_PATIENCE", 0.1)

    async def run() -> list[bytes]:
        async with serving(slow) as port:
            return [await everything_said(port, content) for content in (b"", b"GET / HT", GET, 3 * GET)]

    nothing, part_of_a_head, whole, pipelined = asyncio.run(run())
    assert nothing == part_of_a_head == b""
    assert whole.startswith(b"HTTP/1.1 204")
    assert pipelined.count(b"HTTP/1.1 204") == 3


UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
UPGRADE += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"


async def whole(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000000")]})
    await send({"type": "http.response.body", "body": bytes(10**6)})


async def whole_and_closed(scope: Any, receive: Any, send: Any) -> None:
    """Less than what makes the transport call for a pause."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"connection", b"close")]})
    await send({"type": "http.response.body", "body": bytes(60_000)})


async def whole_and_kept(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"60000")]})
    await send({"type": "http.response.body", "body": bytes(60_000)})


async def endless(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    with contextlib.suppress(ClientGone):
        async with connected(receive):
            while await asyncio.sleep(0, True):
                await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})


async def talkative(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    with contextlib.suppress(OSError):
        while await asyncio.sleep(0, True):
            await send({"type": "websocket.send", "bytes": bytes(2**16)})


async def farewell(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "bytes": bytes(10**6)})
    await send({"type": "websocket.close"})


@pytest.mark.parametrize(
    ("app", "head"),
    [(whole, GET), (whole_and_closed, GET), (endless, GET), (talkative, UPGRADE), (farewell, UPGRADE)],
    ids=["whole", "whole and closed", "endless", "talkative", "farewell"],
)
def test_who_stays_and_does_not_read_is_let_go(app: Any, head: bytes) -> None:
    stays_and_is_let_go(app, head, speechless=False)


def test_who_does_not_read_and_will_not_write_is_let_go() -> None:
    """asyncio then closes the connection by itself, as soon as what was written has been read."""
    stays_and_is_let_go(whole_and_kept, GET, speechless=True)


def stays_and_is_let_go(app: Any, head: bytes, speechless: bool) -> None:
    """Whatever is left of the answer, however it is sent: the application's task ends, and the connection too."""
    ended = threading.Event()

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app(scope, receive, send)
        finally:
            ended.set()

    def stay(port: int) -> list[tuple[int, int]]:
        with socket.socket() as silent:
            silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            silent.connect(("127.0.0.1", port))
            silent.sendall(head)
            assert ended.wait(30)
            if speechless:
                silent.shutdown(socket.SHUT_WR)
            poll = select.poll()
            poll.register(silent, 0)  # hung up, or an error
            return poll.poll(30_000)

    async def run() -> list[tuple[int, int]]:
        async with serving(watched, patience=0.2) as port:
            return await asyncio.to_thread(stay, port)

    assert asyncio.run(run())


async def refusing(scope: Any, receive: Any, send: Any) -> None:
    """Without reading the body."""
    await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body"})


def test_what_is_no_http_after_an_answer_ends_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> bytes:
        async with serving(refusing) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            writer.write(b"no length\r\n")
            rest = await asyncio.wait_for(reader.read(), 20)
            writer.close()
            return head + rest

    with caplog.at_level(logging.ERROR):
        said = asyncio.run(run())
    assert said.startswith(b"HTTP/1.1 401") and b"400" not in said
    assert not caplog.records


def test_answers_are_sent_at_once() -> None:
    """Without waiting until their head has been acknowledged, for which a client takes 40 ms."""
    with (
        listen(ServeConfig({"ada": Path("x")}, port=0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
