"""What one may expect of a client: that it is still there, that it sends, that it reads."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from serve.problems import ClientGone, Problem

_DIGITS = 18  # of a Content-Length that is looked at
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s
HEAD_PATIENCE = 10.0  # s, for the head of a request


@asynccontextmanager
async def connected(receive: Receive) -> AsyncIterator[None]:
    """Breaks its block off with ClientGone when the client goes away. The body must have been read before."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.reschedule(asyncio.get_running_loop().time())

    try:
        async with asyncio.timeout(None) as scope:
            watcher = asyncio.create_task(watch())
            try:
                yield
            finally:
                watcher.cancel()
    except TimeoutError:
        if not scope.expired():
            raise
        raise ClientGone from None


async def read_body(request: Request, most: int, patience: float) -> bytes:
    """The body, of at most so many bytes, counted as they arrive, within so many seconds.

    Raises:
        Problem: 408, 413.
        ClientGone: the connection ended within the body.
    """
    large = Problem(413, f"the body is larger than the limit of {most} bytes: send a shorter one", Connection="close")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or len(announced) > _DIGITS or int(announced) > most:
        raise large
    content = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for chunk in request.stream():
                content += chunk
                if len(content) > most:
                    raise large
    except TimeoutError:
        raise Problem(
            408, f"the body did not arrive within {patience:g} s: send it faster, or less of it", Connection="close"
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    return bytes(content)


class _Transport:
    """asyncio's, which waits no longer than so many seconds for the client to read, not even once it is closed."""

    def __init__(self, transport: asyncio.Transport, patience: float) -> None:
        self._transport, self._patience = transport, patience
        self._pause: asyncio.TimerHandle | None = None

    def close(self) -> None:
        if not self._transport.is_closing():
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._abort_later()

    def pause(self) -> None:
        """It has more to write than it likes."""
        self._pause = self._abort_later()

    def resume(self) -> None:
        if self._pause is not None:
            self._pause.cancel()

    def _abort_later(self) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._patience, self._abort)

    def _abort(self) -> None:
        """The system forgets what was not read, too."""
        with contextlib.suppress(OSError):  # gone already
            self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Reading(asyncio.Protocol):
    """A protocol that gives up who does not read: whatever waits for that, waits no longer."""

    transport: Any

    def eof_received(self) -> None:
        """asyncio closes now, and would wait for ever until what was written has been read."""
        super().eof_received()
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.transport.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.resume_writing()


class PatientWebSocket(_Reading, WebSocketsSansIOProtocol):
    """uvicorn's, on the connection of a `PatientProtocol`; a refused handshake is no error."""

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = True


class PatientProtocol(_Reading, H11Protocol):
    """uvicorn's HTTP/1.1, which also ends connections on which the head of a request does not come.

    What is no HTTP is a problem like any other.

    Args:
        patience: seconds that the client may take to read what is sent at a time.
    """

    def __init__(self, patience: float, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._patience = patience

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(_Transport(transport, self._patience))  # type: ignore[arg-type]  # does what one does
        self._expect_head(None)

    def on_response_complete(self) -> None:
        last = self.cycle
        super().on_response_complete()  # which may begin the next one
        self._expect_head(last)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # it has been answered already
            self.transport.close()
            return
        problem = Problem(
            400, "the bytes that came are no request of HTTP/1.1: send one", Connection="close"
        ).response()
        events = [
            h11.Response(status_code=400, headers=problem.raw_headers, reason=HTTPStatus(400).phrase.encode()),
            h11.Data(data=bytes(problem.body)),
            h11.EndOfMessage(),
        ]
        self.transport.write(b"".join(self.conn.send(event) or b"" for event in events))
        self.transport.close()

    def _expect_head(self, last: object) -> None:
        self.loop.call_later(HEAD_PATIENCE, self._give_up, last)

    def _give_up(self, last: object) -> None:
        if self.cycle is last and self.transport.get_protocol() is self:  # no WebSocket meanwhile
            self.transport.close()
