"""Errors as a client sees them: application/problem+json (RFC 9457) that names value, rule and remedy."""

import json
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Send
from starlette.websockets import WebSocketDisconnect

logger = logging.getLogger("serve")
MEDIA_TYPE = "application/problem+json"
RETRY_AFTER = 1  # s
_CLOSE_CODES = {408: 1008, 413: 1009, 429: 1013, 500: 1011, 503: 1013}  # RFC 6455 and its registry
_REFUSED = 1008  # any other


class Problem(Exception):  # noqa: N818 -- the word of RFC 9457
    """A request that is not answered as it was asked.

    Args:
        status: of HTTP.
        detail: the value, the rule and the remedy.
    """

    def __init__(self, status: int, detail: str, **headers: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    @property
    def body(self) -> dict[str, Any]:
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }

    def response(self) -> Response:
        return JSONResponse(self.body, self.status, self.headers, MEDIA_TYPE)


class ClientGone(Exception):  # noqa: N818 -- nothing is wrong
    """Nobody is there any more to be answered."""


def busy(detail: str) -> Problem:
    return Problem(429, detail, Retry_After=str(RETRY_AFTER))


def unavailable(detail: str) -> Problem:
    return Problem(503, detail, Retry_After=str(RETRY_AFTER))


async def break_off(send: Send, problem: Problem) -> None:
    """Ends a conversation over a WebSocket with a problem, as a JSON message."""
    after = {"retry_after": int(problem.headers["Retry-After"])} if "Retry-After" in problem.headers else {}
    try:
        await send({"type": "websocket.send", "text": json.dumps({**problem.body, **after, "type": "problem"})})
        await send({"type": "websocket.close", "code": _CLOSE_CODES.get(problem.status, _REFUSED)})
    except (WebSocketDisconnect, OSError, RuntimeError):
        logger.debug("the client did not wait for what was wrong")


def handle_problems(app: FastAPI) -> None:
    """Every error of `app` becomes a problem; of one that is ours the client learns nothing more."""

    @app.exception_handler(Problem)
    async def known(_: Request, error: Problem) -> Response:
        return error.response()

    @app.exception_handler(ClientGone)
    async def gone(_: Request, error: ClientGone) -> Response:
        return Response(status_code=499)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return Problem(422, "; ".join(fault(each) for each in error.errors())).response()

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        details = {
            404: "there is nothing at this address: /openapi.json lists what there is",
            405: f"{request.method} is not for this address: /openapi.json lists what is",
        }
        problem = Problem(error.status_code, details.get(error.status_code, str(error.detail)))
        problem.headers.update(error.headers or {})
        return problem.response()

    @app.exception_handler(Exception)
    async def broken(_: Request, error: Exception) -> Response:
        return Problem(500, "the server failed; its log says why").response()


def fault(error: Any) -> str:
    """What pydantic found: the value, the rule, and what to do."""
    name = ".".join(str(part) for part in error["loc"][1:]) or "the request"
    if error["type"] == "extra_forbidden":
        return f"{name} is no parameter of this address: leave it out"
    value = repr(error.get("input"))
    shown = value if len(value) <= 80 else value[:77] + "..."
    return f"{name} is {shown}: {error['msg'][:1].lower()}{error['msg'][1:]}; change it, or leave it out"
