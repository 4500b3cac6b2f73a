"""A conversation over a WebSocket: mel frames in as a text-to-speech front end makes them, sound out as it is ready."""

import asyncio
import json
import logging
from typing import Any

import numpy as np
import torch
from starlette.websockets import WebSocket, WebSocketDisconnect
from torch import Tensor

from data.mel import MelError
from serve.answers import StreamFormat, raw
from serve.asking import Start, begin, validated
from serve.decoding import check_length
from serve.engine import Job
from serve.problems import ClientGone, Problem, break_off
from serve.service import Service
from serve.vocoder import Vocoder

logger = logging.getLogger("serve")
_MOST_TEXT = 4096  # characters: a start, or an end


async def talk(socket: WebSocket, service: Service) -> None:
    """From the handshake to the close; whatever goes wrong is a problem to the client, as a JSON message."""
    await socket.accept()
    try:
        await _converse(socket, service)
        await socket.close()
    except Problem as problem:
        await break_off(socket.send, problem)
    except (ClientGone, WebSocketDisconnect):
        return
    except Exception:
        logger.exception("a conversation failed")
        await break_off(socket.send, Problem(500, "the server failed; its log says why"))


async def _converse(socket: WebSocket, service: Service) -> None:
    message = await _next(socket, service.config.patience)
    if not isinstance(message, dict):
        raise Problem(400, "the conversation begins with frames: send {'type': 'start'} first")
    start = validated(Start, {**message, "format": _format(message)})
    name, vocoder = service.models.find(start.model)
    heard: list[Tensor] = []
    with service.engine.speak(begin(vocoder, start)) as job:
        listener = asyncio.create_task(_listen(socket, service, vocoder, job, heard))
        try:
            async for wav in job.pieces():
                await socket.send_bytes(raw(wav, start.format))
            factor = service.spoken(job, vocoder.sample_rate)
        finally:
            listener.cancel()
    distance = await service.compute(lambda: vocoder.distance(torch.cat(heard, dim=1)))
    summary = {
        "type": "summary",
        "samples": job.stream.samples,
        "sample_rate": vocoder.sample_rate,
        "seed": start.seed,
        "model": name,
        "real_time_factor": round(factor, 3),
        "distance": None if distance is None else round(distance, 2),
    }
    await socket.send_json(summary)


def _format(message: dict[str, Any]) -> StreamFormat:
    """JSON has no enumerations."""
    wanted = message.get("format", StreamFormat.s16.value)
    if wanted not in (StreamFormat.s16.value, StreamFormat.f32.value):
        raise Problem(422, f"format is {str(wanted)[:40]!r}: choose s16 or f32")
    return StreamFormat(wanted)


async def _listen(socket: WebSocket, service: Service, vocoder: Vocoder, job: Job, heard: list[Tensor]) -> None:
    """Feeds the job until the end, then watches whether the client stays; an error goes to who waits for the sound."""
    most = service.config.max_seconds + service.config.patience
    try:
        try:
            async with asyncio.timeout(most):
                await _feed(socket, service, vocoder, job, heard)
        except TimeoutError:
            raise Problem(408, f"the end did not come within {most:g} s: speak longer texts one by one") from None
        await _next(socket, None)
        raise Problem(400, "a message came after the end: open another connection for another utterance")
    except Exception as error:
        job.fail(error)


async def _feed(socket: WebSocket, service: Service, vocoder: Vocoder, job: Job, heard: list[Tensor]) -> None:
    size = 4 * vocoder.mel.n_mels
    while not isinstance(message := await _next(socket, service.config.patience), dict):
        check_length(job.frames + len(message) // size, vocoder, service.config.max_seconds)
        mel = _frames(message, vocoder)
        job.feed(mel)
        heard.append(mel)
    if message != {"type": "end"}:
        raise Problem(400, "a message is neither frames nor the end: send bytes, or {'type': 'end'}")
    if not job.frames:
        raise Problem(422, "the mel has zero frames; give at least one")
    job.end()


def _frames(content: bytes, vocoder: Vocoder) -> Tensor:
    """Little-endian float32 (n, M) -> (M, n), checked."""
    bands = vocoder.mel.n_mels
    if not content or len(content) % (4 * bands):
        raise Problem(
            422, f"{len(content)} bytes are no frames of {bands} little-endian float32 numbers, {4 * bands} bytes each"
        )
    try:
        return vocoder.frames(np.frombuffer(content, "<f4").reshape(-1, bands).T)
    except MelError as error:
        raise Problem(422, str(error)) from None


async def _next(socket: WebSocket, patience: float | None) -> bytes | dict[str, Any]:
    """The next message: bytes, or a JSON object."""
    try:
        async with asyncio.timeout(patience):
            message = await socket.receive()
    except TimeoutError:
        raise Problem(408, f"no message came within {patience:g} s: send the next one sooner") from None
    if message["type"] == "websocket.disconnect":
        raise ClientGone
    if message.get("bytes") is not None:
        return bytes(message["bytes"])
    if len(message["text"]) > _MOST_TEXT:
        raise Problem(
            413,
            f"a text message has {len(message['text'])} characters, and may have {_MOST_TEXT}: send frames as bytes",
        )
    try:
        value = json.loads(message["text"])
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise Problem(400, "a text message is no JSON object: send {'type': 'start'}, bytes, {'type': 'end'}")
    return value
