"""The addresses of the server."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request, WebSocket
from starlette.responses import Response

from serve.answers import MEDIA_TYPES, SpokenResponse, WholeResponse, encode
from serve.asking import FileOptions, StreamOptions, understand
from serve.connection import connected
from serve.documents import BODY, FILE, INFORMATION, STREAM, problems
from serve.gate import Gate
from serve.problems import handle_problems, unavailable
from serve.service import Service
from serve.site import add_page
from serve.talk import talk

logger = logging.getLogger("serve")


def create_app(service: Service, failed: Callable[[Exception], None], load_first: bool = False) -> FastAPI:
    """The application of one process.

    Args:
        failed: is told why the models could not be loaded at the start.
        load_first: listen only then, where others answer meanwhile; else 503 is the answer until then.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        loading = asyncio.create_task(_load(service, failed))
        if load_first:
            await loading
        yield
        loading.cancel()
        service.stop()

    app = FastAPI(title="Parallel WaveNet", description=INFORMATION, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, service=service)
    handle_problems(app)
    _add_speech(app, service)
    _add_state(app, service)
    add_page(app)
    return app


async def _load(service: Service, failed: Callable[[Exception], None]) -> None:
    try:
        await service.load()
    except Exception as error:  # told to who started the server
        failed(error)


def _add_speech(app: FastAPI, service: Service) -> None:
    @app.post("/v1/synthesize", openapi_extra=BODY, responses=FILE, response_class=Response)
    async def synthesize(request: Request, options: Annotated[FileOptions, Query()]) -> Response:
        """The audio of a sound's mel, or of a mel, as one file."""
        asked = await understand(request, options, service)
        async with connected(request.receive):
            with service.engine.speak(asked.stream) as job:
                job.feed(asked.mel)
                job.end()
                wav = np.concatenate([piece async for piece in job.pieces()])
            content = await service.compute(encode, wav, asked.vocoder.sample_rate, options.format)
        factor = service.spoken(job, asked.vocoder.sample_rate)
        headers = {**asked.headers, "X-Real-Time-Factor": f"{factor:.3f}"}
        return WholeResponse(content, headers=headers, media_type=MEDIA_TYPES[options.format])

    @app.post("/v1/stream", openapi_extra=BODY, responses=STREAM, response_class=Response)
    async def stream(request: Request, options: Annotated[StreamOptions, Query()]) -> Response:
        """The same audio, sent while it is being made."""
        asked = await understand(request, options, service)
        return SpokenResponse(
            service, asked.stream, asked.mel, asked.vocoder.sample_rate, options.format, asked.headers
        )

    @app.websocket("/v1/stream")
    async def converse(socket: WebSocket) -> None:
        await talk(socket, service)


def _add_state(app: FastAPI, service: Service) -> None:
    def check_engine() -> None:
        if not service.engine.alive:
            raise unavailable("the engine has stopped: start the server again")

    @app.get("/v1/models", responses=problems(401, 403, 503))
    async def models() -> dict[str, Any]:
        """Who speaks; the first is the default. `look_ahead` is in mel frames."""
        return {"models": service.models.describe()}

    @app.post("/admin/reload", responses=problems(401, 403, 409, 503))
    async def reload() -> dict[str, Any]:
        """Read the checkpoints again. Running requests go on with the old ones; a broken one changes nothing."""
        return await service.reload_for_client()

    @app.get("/healthz", responses=problems(503))
    async def healthz() -> dict[str, str]:
        """Alive."""
        check_engine()
        return {"status": "alive"}

    @app.get("/readyz", responses=problems(503))
    async def readyz() -> dict[str, str]:
        """Loaded, warmed, and not about to stop."""
        check_engine()
        if service.draining or not service.models.ready:
            raise unavailable("about to stop" if service.draining else "the models are being loaded")
        return {"status": "ready"}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Counters for Prometheus."""
        service.metrics.count_tasks()
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")
