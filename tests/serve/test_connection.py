"""Clients that are slow, gone, or silent."""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.types import Message

import serve.connection
from serve.connection import PatientProtocol, connected, read_body
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


def test_a_connection_on_which_no_request_comes_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve.connection, "HEAD_PATIENCE", 0.1)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0.5)  # slower than that, but asked for
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def connect(port: int, content: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(content)
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
        return answer

    async def run(listening: socket.socket) -> list[bytes]:
        config = uvicorn.Config(app, http=PatientProtocol, lifespan="off", ws="none", log_level="error")
        server = uvicorn.Server(config)
        server.capture_signals = lambda: contextlib.nullcontext()  # type: ignore[method-assign, assignment, return-value]
        serving = asyncio.create_task(server.serve([listening]))
        port = listening.getsockname()[1]
        try:
            return [
                await connect(port, content) for content in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            ]
        finally:
            server.should_exit = True
            await serving

    with socket.create_server(("127.0.0.1", 0)) as listening:
        nothing, part_of_a_head, whole = asyncio.run(run(listening))
    assert nothing == part_of_a_head == b""
    assert whole.startswith(b"HTTP/1.1 204")


def test_answers_are_sent_at_once() -> None:
    """Without waiting until their head has been acknowledged, for which a client takes 40 ms."""
    with (
        listen(ServeConfig({"ada": Path("x")}, port=0)) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
