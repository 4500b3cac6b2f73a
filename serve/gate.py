"""In front of all addresses: who is let in, and what became of it."""

import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.problems import Problem, break_off
from serve.service import Service

COUNTED = {"/v1/synthesize", "/v1/stream", "/v1/models", "/admin/reload", "/healthz", "/readyz", "/metrics"}


class Gate:
    """ASGI middleware: refuses what `Service.refusal` refuses, counts and times the rest."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        watched = _Watched(scope, send, self._service)
        guarded = scope["path"].startswith(("/v1/", "/admin/"))
        refusal = self._service.refusal(scope["path"], Headers(scope=scope)) if guarded else None
        try:
            if refusal is not None:
                await refusal.response()(scope, receive, watched)
            elif guarded:
                async with self._service.counted():
                    await self._app(scope, receive, watched)
            else:
                await self._app(scope, receive, watched)
        except Problem as problem:
            if scope["type"] == "websocket":
                await break_off(watched, problem)
            elif not watched.started:
                await problem.response()(scope, receive, watched)
        finally:
            watched.report()


class _Watched:
    """`send`, and what it tells of an answer."""

    def __init__(self, scope: Scope, send: Send, service: Service) -> None:
        self._send, self._metrics = send, service.metrics
        kind = "ws " if scope["type"] == "websocket" else ""
        self._route = kind + scope["path"] if scope["path"] in COUNTED else "other"
        self._began = time.perf_counter()
        self._outcome = "gone"
        self._spoke = False
        self.started = False  # an answer over HTTP

    async def __call__(self, message: Message) -> None:
        kind = message["type"]
        if kind.endswith("response.start"):
            self._outcome, self.started = str(message["status"]), True
        elif kind == "websocket.close":
            self._outcome = str(message.get("code", 1000))
        elif not self._spoke and (kind.endswith("response.body") or message.get("bytes")):
            self._spoke = True
            if self._outcome in ("200", "gone"):
                self._metrics.first_byte.labels(self._route).observe(time.perf_counter() - self._began)
        await self._send(message)

    def report(self) -> None:
        self._metrics.requests.labels(self._route, self._outcome).inc()
        self._metrics.latency.labels(self._route).observe(time.perf_counter() - self._began)
