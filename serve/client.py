"""A client of the server, in two kinds: `Client`, and `AsyncClient` for asyncio.

with Client("http://127.0.0.1:8000") as client:
    wav, rate = client.synthesize(mel, seed=1)
    for chunk in client.stream("hello.wav"):
        play(chunk)
"""

import asyncio
import io
import json
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import httpx
import numpy as np
import websockets.asyncio.client
import websockets.sync.client
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed, InvalidStatus

Wave = NDArray[np.float32]
Mel = NDArray[np.floating[Any]]
Given: TypeAlias = "Mel | str | Path | bytes"  # a mel (M, L), the path of a sound file, or its content

_Socket: TypeAlias = websockets.asyncio.client.ClientConnection

_SAMPLE = 4  # bytes
END = json.dumps({"type": "end"})


class ServerError(RuntimeError):
    """What the server did not do, and why.

    Attributes:
        status: of HTTP.
        detail: the value, the rule and the remedy.
        retry_after: seconds after which it is worth another try; None if it is not.
    """

    def __init__(self, status: int, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{status}: {detail}")
        self.status = status
        self.detail = detail
        self.retry_after = None if retry_after is None else float(retry_after)


class Client:
    """One server.

    Args:
        url: as http://127.0.0.1:8000
        token: where the server asks for one.
        timeout: seconds to wait for the server's next sign of life.
    """

    def __init__(self, url: str, token: str = "", timeout: float = 60.0) -> None:
        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout)
        self._url, self._token, self._timeout = url, token, timeout

    def synthesize(self, given: Given, **voice: Any) -> tuple[Wave, int]:
        """The waveform (T,) and its sampling rate. `voice`: model, seed, temperature, speaker.

        Raises:
            ServerError: it was refused.
            httpx.TransportError: the server cannot be reached.
        """
        answer = self._http.post("/v1/synthesize", **_request(given, voice))
        _check(answer)
        return _samples(answer.content), int(answer.headers["X-Sample-Rate"])

    def stream(self, given: Given, **voice: Any) -> Iterator[Wave]:
        """The same waveform, piece by piece as it is made."""
        with self._http.stream("POST", "/v1/stream", **_request(given, voice)) as answer:
            if answer.is_error:
                answer.read()
            _check(answer)
            rest = b""
            for chunk in answer.iter_bytes():
                whole, rest = _split(rest + chunk)
                yield _samples(whole)

    def speak(self, mels: Iterable[Mel], **voice: Any) -> Iterator[Wave]:
        """The waveform of a mel that comes in chunks (M, n), over a WebSocket, as it becomes certain.

        Raises:
            ServerError: it was refused, or broken off.
            TimeoutError, OSError, ConnectionClosed of websockets: the server is silent, or cannot be reached any more.
        """
        with (
            _refusals(),
            websockets.sync.client.connect(**_socket(self._url, self._token, self._timeout)) as socket,
        ):
            with suppress(ConnectionClosed):  # what the server said before is still to be heard
                socket.send(_start(voice))
                for mel in mels:
                    socket.send(_frames(mel))
                    while (said := _at_once(socket)) is not None:
                        yield _said(said)
                socket.send(END)
            while isinstance(said := socket.recv(self._timeout), bytes):
                yield _said(said)
            _said(said)

    def models(self) -> list[dict[str, Any]]:
        """Who speaks; the first is the default."""
        answer = self._http.get("/v1/models")
        _check(answer)
        return list(answer.json()["models"])

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """`Client` for asyncio."""

    def __init__(self, url: str, token: str = "", timeout: float = 60.0) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout)
        self._url, self._token, self._timeout = url, token, timeout

    async def synthesize(self, given: Given, **voice: Any) -> tuple[Wave, int]:
        """See `Client.synthesize`."""
        answer = await self._http.post("/v1/synthesize", **_request(given, voice))
        _check(answer)
        return _samples(answer.content), int(answer.headers["X-Sample-Rate"])

    async def stream(self, given: Given, **voice: Any) -> AsyncIterator[Wave]:
        """See `Client.stream`."""
        async with self._http.stream("POST", "/v1/stream", **_request(given, voice)) as answer:
            if answer.is_error:
                await answer.aread()
            _check(answer)
            rest = b""
            async for chunk in answer.aiter_bytes():
                whole, rest = _split(rest + chunk)
                yield _samples(whole)

    async def speak(self, mels: AsyncIterable[Mel], **voice: Any) -> AsyncIterator[Wave]:
        """See `Client.speak`."""
        with _refusals():
            async with websockets.asyncio.client.connect(**_socket(self._url, self._token, self._timeout)) as socket:
                feeding = asyncio.create_task(self._feed(socket, mels, _start(voice)))
                try:
                    while isinstance(said := await self._next(socket, feeding), bytes):
                        yield _said(said)
                    _said(said)
                finally:
                    feeding.cancel()

    async def _feed(self, socket: _Socket, mels: AsyncIterable[Mel], start: str) -> None:
        async def send(message: str | bytes) -> None:
            async with asyncio.timeout(self._timeout):
                await socket.send(message)

        with suppress(ConnectionClosed):
            await send(start)
            async for mel in mels:
                await send(_frames(mel))
            await send(END)

    async def _next(self, socket: _Socket, feeding: asyncio.Task[None]) -> str | bytes:
        """The next message, or what feeding raises. While the caller feeds, the server may be silent."""
        receiving = asyncio.create_task(socket.recv())
        try:
            await asyncio.wait({receiving, feeding}, return_when=asyncio.FIRST_COMPLETED)
            if feeding.done():
                feeding.result()
            async with asyncio.timeout(self._timeout):
                return await receiving
        finally:
            receiving.cancel()

    async def models(self) -> list[dict[str, Any]]:
        """See `Client.models`."""
        answer = await self._http.get("/v1/models")
        _check(answer)
        return list(answer.json()["models"])

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _at_once(socket: websockets.sync.client.ClientConnection) -> str | bytes | None:
    """A message that is already there."""
    try:
        return socket.recv(0)
    except TimeoutError:
        return None


def _request(given: Given, voice: dict[str, Any]) -> dict[str, Any]:
    """Body, type and query; answers are asked for in float32, which loses nothing."""
    if isinstance(given, np.ndarray):
        buffer = io.BytesIO()
        np.save(buffer, given, allow_pickle=False)
        content, kind = buffer.getvalue(), "application/x-npy"
    else:
        content, kind = given if isinstance(given, bytes) else Path(given).read_bytes(), "audio/*"
    return {"content": content, "headers": {"Content-Type": kind}, "params": {**voice, "format": "f32"}}


def _start(voice: dict[str, Any]) -> str:
    return json.dumps({"type": "start", **voice, "format": "f32"})


def _frames(mel: Mel) -> bytes:
    """(M, n) -> n frames of M little-endian float32 numbers"""
    return np.ascontiguousarray(mel.T, "<f4").tobytes()


def _headers(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _socket(url: str, token: str, timeout: float) -> dict[str, Any]:
    """Of both kinds of `connect`."""
    return {
        "uri": "ws" + url.removeprefix("http").rstrip("/") + "/v1/stream",
        "additional_headers": _headers(token),
        "open_timeout": timeout,
        "compression": None,
        "max_size": None,
    }


@contextmanager
def _refusals() -> Iterator[None]:
    """What refuses a handshake is a ServerError like any other."""
    try:
        yield
    except InvalidStatus as refused:
        answer = refused.response
        raise _error(answer.status_code, bytes(answer.body or b""), answer.headers.get("Retry-After")) from None


def _said(message: str | bytes) -> Wave:
    """Samples; the summary, which has none; or a ServerError."""
    if isinstance(message, bytes):
        return _samples(message)
    body = json.loads(message)
    if body["type"] == "problem":
        raise ServerError(body["status"], body["detail"], body.get("retry_after"))
    return _samples(b"")


def _check(answer: httpx.Response) -> None:
    if not answer.is_success:
        raise _error(answer.status_code, answer.content, answer.headers.get("Retry-After"))


def _error(status: int, content: bytes, after: str | None) -> ServerError:
    """Of a problem, or of what a proxy says instead."""
    try:
        detail = str(json.loads(content)["detail"])
    except (ValueError, KeyError, TypeError):
        detail = content[:200].decode(errors="replace")
    return ServerError(status, detail, float(after) if after and after.isdecimal() else None)


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Whole samples, and the rest."""
    whole = len(content) // _SAMPLE * _SAMPLE
    return content[:whole], content[whole:]


def _samples(content: bytes) -> Wave:
    return np.frombuffer(content, "<f4").astype(np.float32)
