"""A request over HTTP -> an utterance that can be begun."""

from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from serve.answers import FileFormat, StreamFormat
from serve.bodies import media_type, parse_body
from serve.connection import read_body
from serve.problems import Problem, fault
from serve.service import Service
from serve.streaming import VocoderStream
from serve.vocoder import Vocoder

HOTTEST = 10.0  # temperature; far beyond what sounds like anything


class Voice(BaseModel):
    """How a mel is spoken."""

    model_config = ConfigDict(extra="forbid")

    seed: int = Field(0, ge=0, lt=2**64, description="Of the noise; the same seed gives the same waveform.")
    temperature: float = Field(1.0, ge=0, le=HOTTEST, allow_inf_nan=False, description="Factor on the noise.")
    speaker: str | None = Field(None, description="Name of a speaker, where the voice has several.")


class Options(Voice):
    model: str | None = Field(None, description="One of /v1/models; by default the first.")


class FileOptions(Options):
    format: FileFormat = Field(
        FileFormat.wav, description="wav and flac have 16 bits; f32 is raw little-endian float32."
    )


class StreamOptions(Options):
    format: StreamFormat = Field(StreamFormat.wav, description="wav has 16 bits; s16 and f32 are raw, little-endian.")


class Start(StreamOptions):
    """The first message over a WebSocket."""

    type: str = Field("start", pattern="^start$")
    format: StreamFormat = StreamFormat.s16


@dataclass
class Utterance:
    """What is to be spoken, by whom."""

    name: str
    vocoder: Vocoder
    voice: Voice
    mel: Tensor  # (M, L)
    stream: VocoderStream
    distance: float | None

    @property
    def headers(self) -> dict[str, str]:
        headers = {
            "X-Samples": str(self.mel.shape[1] * self.vocoder.mel.hop_length),
            "X-Sample-Rate": str(self.vocoder.sample_rate),
            "X-Seed": str(self.voice.seed),
            "X-Model": self.name,
        }
        return headers if self.distance is None else {**headers, "X-Distance": f"{self.distance:.2f}"}


async def understand(request: Request, options: Options, service: Service) -> Utterance:
    """Reads and checks all of a request; sound files and mels in threads of their own.

    Raises:
        Problem: what is wrong with it.
        ClientGone: while it was read.
    """
    name, vocoder = service.models.find(options.model)
    header = request.headers.get("content-type", "")
    media_type(header)
    content = await read_body(request, service.config.max_bytes, service.config.patience)
    with service.place():
        asked = await service.compute(parse_body, content, header, vocoder, service.config.max_seconds)
        voice = _merged(options, asked.options)
        distance = await service.compute(vocoder.distance, asked.mel)
        return Utterance(name, vocoder, voice, vocoder.frames(asked.mel), begin(vocoder, voice), distance)


def begin(vocoder: Vocoder, voice: Voice) -> VocoderStream:
    """A stream of this voice. Raises Problem 422 where there is no such speaker."""
    try:
        return vocoder.begin(seed=voice.seed, temperature=voice.temperature, speaker=voice.speaker)
    except ValueError as error:
        raise Problem(422, str(error)) from None


V = TypeVar("V", bound=Voice)


def validated(model: type[V], values: dict[str, Any]) -> V:
    """A model from JSON's values, each of its own type. Raises Problem 422."""
    try:
        return model.model_validate(values, strict=True)
    except ValidationError as error:
        raise Problem(422, "; ".join(fault({**each, "loc": ("", *each["loc"])}) for each in error.errors())) from None


def _merged(options: Options, body: dict[str, Any]) -> Voice:
    """Query and body together, neither of which may say what the other says."""
    query = options.model_dump(include=options.model_fields_set & Voice.model_fields.keys())
    twice = sorted(query.keys() & body.keys())
    if twice:
        raise Problem(422, f"{twice[0]} is both in the query and in the body: leave one of them out")
    return validated(Voice, {**query, **body})
