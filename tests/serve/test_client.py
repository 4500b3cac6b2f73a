"""Both clients tell whatever happens to a conversation: refusals, problems, silence, and what their callers raise."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.sync.server import ServerConnection, serve

from serve.client import AsyncClient, Client, ServerError
from serve.problems import Problem, break_off, busy

Wave = NDArray[np.float32]
Speak = Callable[..., list[Wave]]
MEL = np.zeros((3, 2), np.float32)
SAMPLES = np.arange(4, dtype=np.float32)
MANY = 1000  # chunks, more than there is time for before the connection ends
SILENCE = 1.0  # s; within which a handshake is done
SOON = 20.0  # s


@contextmanager
def serving(converse: Callable[[ServerConnection], None], refusal: Problem | None = None) -> Iterator[str]:
    """The address of a server that does this in every conversation, or refuses the handshake."""

    def shake(socket: ServerConnection, request: Request) -> Response | None:
        if refusal is None:
            return None
        answer = refusal.response()
        headers = Headers((name.decode(), value.decode()) for name, value in answer.raw_headers)
        return Response(refusal.status, HTTPStatus(refusal.status).phrase, headers, bytes(answer.body))

    with serve(converse, "127.0.0.1", 0, process_request=shake) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


def speak_in_turn(url: str, mels: Iterator[Wave], timeout: float = 30.0) -> list[Wave]:
    with Client(url, timeout=timeout) as client:
        return list(client.speak(mels))


def speak_at_once(url: str, mels: Iterator[Wave], timeout: float = 30.0) -> list[Wave]:
    async def each() -> AsyncIterator[Wave]:
        while (mel := await asyncio.to_thread(next, mels, None)) is not None:
            yield mel

    async def speak() -> list[Wave]:
        async with AsyncClient(url, timeout=timeout) as client:
            return [piece async for piece in client.speak(each())]

    async def soon() -> list[Wave]:
        speaking = asyncio.create_task(speak())
        await asyncio.wait({speaking}, timeout=SOON)
        assert speaking.done(), "it waits for ever"
        return speaking.result()

    return asyncio.run(soon())


both = pytest.mark.parametrize("speak", [speak_in_turn, speak_at_once])


def said(problem: Problem) -> list[dict[str, Any]]:
    """What the server sends of a problem, as ASGI."""
    messages: list[Any] = []

    async def send(message: Any) -> None:
        messages.append(message)

    asyncio.run(break_off(send, problem))
    return messages


@both
def test_a_conversation_is_heard_to_its_end(speak: Speak) -> None:
    came: list[str | bytes] = []

    def converse(socket: ServerConnection) -> None:
        while isinstance(message := socket.recv(), bytes) or "end" not in message:
            came.append(message)
        socket.send(SAMPLES.tobytes())
        socket.send(json.dumps({"type": "summary"}))

    with serving(converse) as url:
        pieces = speak(url, iter([MEL, MEL + 1]))
    np.testing.assert_array_equal(np.concatenate(pieces), SAMPLES)
    assert came[1:] == [MEL.T.tobytes(), (MEL + 1).T.tobytes()]


@both
@pytest.mark.parametrize("refusal", [busy("the queue is full"), Problem(401, "the token is missing")])
def test_a_refused_handshake_says_why_and_when_to_come_back(speak: Speak, refusal: Problem) -> None:
    with serving(lambda socket: None, refusal) as url, pytest.raises(ServerError) as raised:
        speak(url, iter([MEL]))
    after = refusal.headers.get("Retry-After")
    assert (raised.value.status, raised.value.detail) == (refusal.status, refusal.detail)
    assert raised.value.retry_after == (None if after is None else float(after))


@both
@pytest.mark.parametrize("problem", [busy("the queue is full"), Problem(422, "3 bytes are no frames")])
def test_a_problem_is_told_though_the_client_still_sends(speak: Speak, problem: Problem) -> None:
    over = Event()

    def converse(socket: ServerConnection) -> None:
        socket.recv()
        socket.recv()
        text, close = said(problem)
        socket.send(SAMPLES.tobytes())
        socket.send(text["text"])
        socket.close(close["code"])
        over.set()

    def mels() -> Iterator[Wave]:
        yield MEL
        assert over.wait(SOON)
        for _ in range(MANY):
            yield MEL

    with serving(converse) as url, pytest.raises(ServerError) as raised:
        speak(url, mels())
    after = problem.headers.get("Retry-After")
    assert (raised.value.status, raised.value.detail) == (problem.status, problem.detail)
    assert raised.value.retry_after == (None if after is None else float(after))


@both
def test_an_end_without_a_word_is_no_summary(speak: Speak) -> None:
    def converse(socket: ServerConnection) -> None:
        socket.recv()
        socket.send(SAMPLES.tobytes())

    with serving(converse) as url, pytest.raises(ConnectionClosed):
        speak(url, iter([MEL]))


@both
def test_what_the_caller_raises_ends_the_conversation(speak: Speak) -> None:
    ended = Event()

    def converse(socket: ServerConnection) -> None:
        try:
            while True:
                socket.recv()
        except ConnectionClosed:
            ended.set()

    def mels() -> Iterator[Wave]:
        yield MEL
        raise LookupError("no more words")

    with serving(converse) as url:
        with pytest.raises(LookupError, match="no more words"):
            speak(url, mels())
        assert ended.wait(SOON)


@both
def test_a_server_that_says_nothing_is_not_waited_for(speak: Speak) -> None:
    begun, over = Event(), Event()

    def converse(socket: ServerConnection) -> None:
        begun.set()
        over.wait(SOON)

    with serving(converse) as url:
        try:
            with pytest.raises(TimeoutError):
                speak(url, iter([MEL]), timeout=SILENCE)
            assert begun.is_set()
        finally:
            over.set()


@both
def test_a_caller_may_be_slower_than_the_server_must_be(speak: Speak) -> None:
    """Only the server's silence counts."""
    hurry = Event()

    def converse(socket: ServerConnection) -> None:
        while isinstance(message := socket.recv(), bytes) or "end" not in message:
            pass
        socket.send(json.dumps({"type": "summary"}))

    def mels() -> Iterator[Wave]:
        yield MEL
        hurry.wait(2 * SILENCE)
        yield MEL

    with serving(converse) as url:
        assert speak(url, mels(), timeout=SILENCE) == []


def test_a_handshake_that_the_server_refuses_is_no_error_of_it(
    start_server: Callable[..., Any], toy_student: Path
) -> None:
    server = start_server("--checkpoint", toy_student, "--token", "open-sesame")
    for speak in (speak_in_turn, speak_at_once):
        with pytest.raises(ServerError, match="the token is missing or wrong") as raised:
            speak(server.url, iter([MEL]))
        assert raised.value.status == 401
    assert server.stop() == 0
    assert "ERROR" not in server.log.read_text()
