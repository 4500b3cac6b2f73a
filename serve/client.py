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
from pathlib import Path
from typing import Any, Self, TypeAlias

import httpx
import numpy as np
import websockets.asyncio.client
import websockets.sync.client
from numpy.typing import NDArray

Wave = NDArray[np.float32]
Mel = NDArray[np.floating[Any]]
Given: TypeAlias = "Mel | str | Path | bytes"  # a mel (M, L), the path of a sound file, or its content

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
        self.retry_after = retry_after


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
        """The waveform of a mel that comes in chunks (M, n), over a WebSocket, as it becomes certain."""
        with websockets.sync.client.connect(
            _socket_url(self._url), additional_headers=_headers(self._token), compression=None, max_size=None
        ) as socket:
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
        async with websockets.asyncio.client.connect(
            _socket_url(self._url), additional_headers=_headers(self._token), compression=None, max_size=None
        ) as socket:
            await socket.send(_start(voice))
            feeding = asyncio.create_task(_feed(socket, mels))
            try:
                while isinstance(said := await socket.recv(), bytes):
                    yield _said(said)
                _said(said)
            finally:
                feeding.cancel()

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


async def _feed(socket: websockets.asyncio.client.ClientConnection, mels: AsyncIterable[Mel]) -> None:
    async for mel in mels:
        await socket.send(_frames(mel))
    await socket.send(END)


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


def _socket_url(url: str) -> str:
    return "ws" + url.removeprefix("http").rstrip("/") + "/v1/stream"


def _said(message: str | bytes) -> Wave:
    """Samples; the summary, which has none; or a ServerError."""
    if isinstance(message, bytes):
        return _samples(message)
    body = json.loads(message)
    if body["type"] == "problem":
        raise ServerError(body["status"], body["detail"])
    return _samples(b"")


def _check(answer: httpx.Response) -> None:
    if answer.is_success:
        return
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    after = answer.headers.get("Retry-After")
    raise ServerError(answer.status_code, detail, None if after is None else float(after))


def _split(content: bytes) -> tuple[bytes, bytes]:
    """Whole samples, and the rest."""
    whole = len(content) // _SAMPLE * _SAMPLE
    return content[:whole], content[whole:]


def _samples(content: bytes) -> Wave:
    return np.frombuffer(content, "<f4").astype(np.float32)
