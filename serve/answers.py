"""Waveforms as bytes: whole files, and answers that begin before their end is known."""

import struct
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from torch import Tensor

from data.audio import encode_audio, to_pcm
from serve.connection import connected
from serve.problems import ClientGone
from serve.service import Service
from serve.streaming import VocoderStream

Wave = NDArray[np.float32]
MOST_AT_ONCE = 2**16  # bytes of a file
RAW = "application/octet-stream"  # samples alone, mono, little-endian


class FileFormat(StrEnum):
    wav = "wav"
    flac = "flac"
    f32 = "f32"


class StreamFormat(StrEnum):
    wav = "wav"
    s16 = "s16"
    f32 = "f32"


MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "f32": RAW, "s16": RAW}


def encode(wav: Wave, rate: int, format: FileFormat) -> bytes:
    """A whole answer: 16 bits as wav or flac, or float32."""
    if format is FileFormat.f32:
        return raw(wav, StreamFormat.f32)
    return encode_audio(wav, rate, "WAV" if format is FileFormat.wav else "FLAC")


def raw(wav: Wave, format: StreamFormat) -> bytes:
    """Samples without a header."""
    return wav.astype("<f4").tobytes() if format is StreamFormat.f32 else to_pcm(wav).astype("<i2").tobytes()


def wav_header(samples: int, rate: int) -> bytes:
    """Of a mono 16-bit wav. The number of samples is known from the mel before the first of them is."""
    size = 2 * samples
    form = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    return form + struct.pack("<4sIHHIIHH4sI", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16, b"data", size)


class WholeResponse(Response):
    """A whole file, handed over no faster than the client reads it, so that its request runs until then."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for start in range(0, len(self.body), MOST_AT_ONCE):
            stop = start + MOST_AT_ONCE
            body = self.body[start:stop]
            await send({"type": "http.response.body", "body": body, "more_body": stop < len(self.body)})


class SpokenResponse(Response):
    """The waveform of a mel, sent while it is being made.

    The utterance has its place in the engine as long as the client is there and reads.
    """

    def __init__(
        self,
        service: Service,
        stream: VocoderStream,
        mel: Tensor,
        rate: int,
        format: StreamFormat,
        headers: dict[str, str],
    ) -> None:
        self._service, self._stream, self._mel, self._rate, self._format = service, stream, mel, rate, format
        self.status_code, self.media_type, self.background = 200, MEDIA_TYPES[format], None
        self.init_headers(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False
        try:
            async with connected(receive):
                with self._service.engine.speak(self._stream) as job:
                    job.feed(self._mel)
                    job.end()
                    async for wav in job.pieces():
                        body = raw(wav, self._format)
                        if not started:
                            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                            body, started = self._header() + body, True
                        await send({"type": "http.response.body", "body": body, "more_body": True})
                    self._service.spoken(job, self._rate)
        except ClientGone:
            return
        await send({"type": "http.response.body", "body": b""})

    def _header(self) -> bytes:
        if self._format is not StreamFormat.wav:
            return b""
        return wav_header(self._mel.shape[1] * self._stream.student.hop, self._rate)
