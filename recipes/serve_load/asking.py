"""Requests whose answers are known: every sound that comes back is compared with one pass."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import product

import httpx
import numpy as np
from numpy.typing import NDArray
from websockets.exceptions import WebSocketException

from data.audio import to_pcm
from serve import Vocoder
from serve.client import AsyncClient, ServerError

Wave = NDArray[np.float32]
HUNG = 60.0  # s without the end of an answer
RIGHT, WRONG, HANGING = "right", "wrong audio", "hung"
NPY = {"Content-Type": "application/x-npy"}
FILE, STREAM, TALK = PATHS = ("/v1/synthesize", "/v1/stream", "ws /v1/stream")
FORMATS = {FILE: "f32", STREAM: "s16", TALK: "f32"}
CHUNK = 16  # frames of a message, where the mel comes in messages
LATER = (429, 503)  # statuses that say when to come back
TOLERANCE = 1e-5  # of the peak
_KEPT = 2.0  # s that an idle connection is used again; the server closes it after 5


@dataclass
class Question:
    """A mel and a seed, and what one pass makes of them."""

    mel: Wave  # (M, L)
    seed: int
    wav: Wave  # (T,)

    @property
    def body(self) -> bytes:
        return npy(self.mel)

    def right(self, content: bytes | bytearray, path: str) -> bool:
        """Whether that is the waveform: to 1e-5 of the peak, or a step of 16 bits."""
        if FORMATS[path] == "f32":
            if len(content) != 4 * len(self.wav):
                return False
            with np.errstate(invalid="ignore"):  # wrong bytes may be no numbers
                error = np.abs(np.frombuffer(content, "<f4") - self.wav).max()
            return bool(error <= TOLERANCE * np.abs(self.wav).max())
        if len(content) != 2 * len(self.wav):
            return False
        return bool(np.abs(np.frombuffer(content, "<i2").astype(int) - to_pcm(self.wav)).max() <= 1)


@dataclass
class Reply:
    """What became of a request.

    Attributes:
        outcome: RIGHT, WRONG, HANGING, the status of a refusal, or the name of an exception of httpx or websockets.
        began: on the clock of `time.perf_counter`; when it was due, if it was sent later.
        first: s from there to the first byte of audio.
        seconds: s from there to the end.
    """

    question: int
    path: str
    outcome: str
    began: float
    first: float | None
    seconds: float
    samples: int


def questions(vocoder: Vocoder, seconds: tuple[float, ...], seeds: int = 2) -> list[Question]:
    """For every length as many mels as seeds, of noise that swells like syllables."""
    return [_question(vocoder, length, seed) for length, seed in product(seconds, range(seeds))]


def _question(vocoder: Vocoder, seconds: float, seed: int) -> Question:
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * vocoder.sample_rate)) / vocoder.sample_rate
    wav = 0.1 * np.sin(2 * np.pi * rng.uniform(1, 4) * t) ** 2 * rng.standard_normal(len(t))
    mel = vocoder.mel_of(wav, vocoder.sample_rate).cpu().numpy()
    return Question(mel, seed, vocoder(mel, seed=seed, speaker=next(iter(vocoder.speakers), None)))


def npy(array: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


class Refused(Exception):  # noqa: N818 -- nothing is wrong
    """With which status, and what is missing from it."""


class Asker:
    """Sends questions, each kind of them equally often.

    Args:
        keep: connections, to ask again over them.
    """

    def __init__(self, url: str, asked: list[Question], speaker: str | None = None, keep: bool = True) -> None:
        self.questions = asked
        self.speaker = speaker
        self._bodies = [question.body for question in asked]
        self._voice = {} if speaker is None else {"speaker": speaker}
        limits = httpx.Limits(max_keepalive_connections=None if keep else 0, keepalive_expiry=_KEPT)
        self.http = httpx.AsyncClient(base_url=url, timeout=None, limits=limits, trust_env=False)
        self._client = AsyncClient(url, timeout=HUNG)
        order = np.random.default_rng(0).permutation(len(PATHS) * len(asked))
        self._order = [(int(n) // len(PATHS), PATHS[int(n) % len(PATHS)]) for n in order]
        self._asked = 0

    async def __aenter__(self) -> "Asker":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        await self.http.aclose()
        await self._client.close()

    def next(self) -> tuple[int, str]:
        """A question's number, and where to ask it."""
        self._asked += 1
        return self._order[self._asked % len(self._order)]

    async def all(self) -> list[Reply]:
        """Every question at every address, one after the other."""
        return [await self.ask(number, path) for number, path in self._order]

    async def ask(self, number: int, path: str, due: float | None = None) -> Reply:
        """Sends one question, and waits for the end of what comes."""
        began = time.perf_counter() if due is None else due
        first, content, outcome = None, bytearray(), HANGING
        try:
            async with asyncio.timeout(HUNG):
                async for piece in self._talk(number) if path == TALK else self._send(number, path):
                    first = first or time.perf_counter() - began
                    content += piece
            outcome = RIGHT if self.questions[number].right(content, path) else WRONG
        except TimeoutError:
            pass
        except Refused as refused:
            outcome = str(refused)
        except (httpx.TransportError, WebSocketException, OSError) as error:
            outcome = type(error).__name__
        samples = len(self.questions[number].wav) if outcome == RIGHT else 0
        return Reply(number, path, outcome, began, first, time.perf_counter() - began, samples)

    async def _send(self, number: int, path: str) -> AsyncIterator[bytes]:
        query = {**self._voice, "seed": str(self.questions[number].seed), "format": FORMATS[path]}
        async with self.http.stream("POST", path, params=query, content=self._bodies[number], headers=NPY) as answer:
            if answer.status_code != 200:
                raise Refused(refusal(answer.status_code, answer.headers))
            async for chunk in answer.aiter_raw():
                yield chunk

    async def _talk(self, number: int) -> AsyncIterator[bytes]:
        question = self.questions[number]
        try:
            async for piece in self._client.speak(chunks(question.mel), seed=question.seed, **self._voice):
                yield piece.tobytes()
        except ServerError as error:
            late = error.status in LATER and error.retry_after is None
            raise Refused(f"{error.status} without Retry-After" if late else str(error.status)) from None


async def chunks(mel: Wave) -> AsyncIterator[Wave]:
    """(M, L) -> (M, n), as fast as they are taken"""
    for begin in range(0, mel.shape[1], CHUNK):
        yield mel[:, begin : begin + CHUNK]


def refusal(status: int, headers: httpx.Headers) -> str:
    """The status of a refusal, and what is missing from it."""
    if headers.get("content-type") != "application/problem+json":
        return f"{status} without a problem"
    if status in LATER and not headers.get("retry-after", "").isdecimal():
        return f"{status} without Retry-After"
    return str(status)


def wrong(replies: list[Reply], *allowed: str) -> list[str]:
    """Outcomes that are neither right nor allowed."""
    return sorted({reply.outcome for reply in replies} - {RIGHT, *allowed})
