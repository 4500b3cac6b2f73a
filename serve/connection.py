"""What one may expect of a client: that it is still there, that it sends, that it reads."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import h11
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

from serve.problems import ClientGone, Problem

_DIGITS = 18  # of a Content-Length that is looked at
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


class PatientProtocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also ends connections on which the head of a request does not come.

    What is no HTTP is a problem like any other.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()

    def send_400_response(self, msg: str) -> None:
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

    def _expect_head(self) -> None:
        self.loop.call_later(HEAD_PATIENCE, self._give_up, self.cycle)

    def _give_up(self, last: object) -> None:
        if self.cycle is last and self.transport.get_protocol() is self:  # no WebSocket meanwhile
            self.transport.close()
