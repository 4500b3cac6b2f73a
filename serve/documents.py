"""What the OpenAPI document says beyond what the code does: bodies, answers, examples."""

from typing import Any

INFORMATION = """Speech from mel-spectrograms by one parallel pass of a WaveNet student.

Bodies are sounds, of which the mel is taken, or natural-log mels. `/v1/stream` also speaks WebSocket: a JSON message
`{"type": "start", "seed": 1, "format": "s16"}`, binary messages of little-endian float32 frames (n, 80), and
`{"type": "end"}`; binary messages of samples come back as they become certain, and a JSON summary at last. What goes
wrong comes as a JSON message of type problem, with `retry_after` (s) where it is worth another try.
"""

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_MEANINGS = {
    400: "The body is not what its type says",
    401: "The token is missing or wrong",
    403: "The page that asks is of another origin, or the server has no token",
    404: "No such model",
    408: "The body comes too slowly",
    409: "A checkpoint is broken",
    413: "Too many bytes, or too many seconds",
    415: "A body of this type is not read",
    422: "A value is wrong",
    429: "The queue is full",
    503: "Loading, or about to stop",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MEL = {
    "type": "object",
    "required": ["mel"],
    "additionalProperties": False,
    "properties": {
        "mel": {
            "type": "array",
            "minItems": 1,
            "description": "Frames, each of as many natural-log magnitudes as the model has bands",
            "items": {"type": "array", "items": {"type": "number"}},
        },
        "seed": {"type": "integer", "minimum": 0, "exclusiveMaximum": 2**64, "default": 0},
        "temperature": {"type": "number", "minimum": 0, "maximum": 10, "default": 1.0},
        "speaker": {"type": "string"},
    },
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Documented errors."""
    content = {"application/problem+json": {"schema": _PROBLEM}}
    return {
        status: {
            "description": _MEANINGS[status],
            "content": content,
            "headers": _LATER if status in (429, 503) else {},
        }
        for status in statuses
    }


def _header(text: str, kind: str, required: bool = True) -> dict[str, Any]:
    return {"description": text, "required": required, "schema": {"type": kind}}


_LATER = {"Retry-After": _header("Seconds", "integer")}
_SPOKEN = {
    "X-Samples": _header("Samples of audio", "integer"),
    "X-Sample-Rate": _header("Hz", "integer"),
    "X-Seed": _header("Of the noise", "integer"),
    "X-Model": _header("Who speaks", "string"),
    "X-Distance": _header("From what the model knows, above 1 far; not of every model or sound", "number", False),
}
_SPEED = {"X-Real-Time-Factor": _header("Seconds of sound for a second of computing", "number")}


def _answer(headers: dict[str, Any], *types: str) -> dict[str, Any]:
    return {"description": "The audio", "headers": headers, "content": dict.fromkeys(types, _BINARY)}


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "audio/wav": _BINARY,
            "application/x-npy": _BINARY,
            "application/json": {"schema": _MEL, "example": {"mel": [[-6.0] * 80] * 3, "seed": 1, "temperature": 1.0}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}
_REFUSALS = problems(400, 401, 403, 404, 408, 413, 415, 422, 429, 503)
FILE: dict[int | str, dict[str, Any]] = {
    200: _answer({**_SPOKEN, **_SPEED}, "audio/wav", "audio/flac", "application/octet-stream"),
    **_REFUSALS,
}
STREAM: dict[int | str, dict[str, Any]] = {200: _answer(_SPOKEN, "audio/wav", "application/octet-stream"), **_REFUSALS}
