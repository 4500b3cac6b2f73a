"""Turns are fair, errors stay with whom they belong to, and who leaves is forgotten."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from serve import Vocoder
from serve.engine import Engine, Job
from serve.metrics import Metrics
from serve.problems import Problem
from serve.streaming import LARGEST_PIECE, StreamingStudent, VocoderStream

Utterance = Callable[..., NDArray[np.float32]]


@pytest.fixture
def make_engine() -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(batch: int = 2, queue: int = 10) -> Engine:
        made.append(Engine(batch, queue, torch.get_num_threads(), Metrics()))
        return made[-1]

    yield make
    for engine in made:
        if engine.alive:
            engine.stop()


@pytest.fixture
def turns(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The seeds of who was computed, step by step."""
    seen: list[list[int]] = []
    advance = StreamingStudent.advance

    def spy(self: StreamingStudent, streams: list[Any]) -> list[torch.Tensor]:
        seen.append([stream._seed for stream in streams])
        return advance(self, streams)

    monkeypatch.setattr(StreamingStudent, "advance", spy)
    return seen


async def hear(job: Job) -> NDArray[np.float32]:
    return np.concatenate([piece async for piece in job.pieces()])


def speak_together(engine: Engine, vocoder: Vocoder, mels: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    """All of them are there before the first turn; utterance n has the seed n."""

    async def one(seed: int, fed: asyncio.Barrier) -> NDArray[np.float32]:
        with engine.speak(vocoder.begin(seed=seed)) as job:
            job.feed(vocoder.frames(mels[seed]))
            job.end()
            await fed.wait()
            if not engine.alive:
                engine.start()
            return await hear(job)

    async def everything() -> list[NDArray[np.float32]]:
        fed = asyncio.Barrier(len(mels))
        return await asyncio.gather(*(one(seed, fed) for seed in range(len(mels))))

    return asyncio.run(everything())


def test_all_of_a_batch_take_turns_and_the_rest_waits(
    make_engine: Callable[..., Engine], toy_vocoder: Vocoder, toy_utterance: Utterance, turns: list[list[int]]
) -> None:
    mels = [toy_utterance(frames, seed=frames) for frames in (400, 60, 30)]
    waves = speak_together(make_engine(batch=2), toy_vocoder, mels)
    for seed, (wav, mel) in enumerate(zip(waves, mels, strict=True)):
        np.testing.assert_allclose(wav, toy_vocoder(mel, seed=seed), rtol=0, atol=1e-5 * np.abs(wav).max())
    order = [seed for step in turns for seed in step]
    assert order[:4] == [0, 1, 0, 1]  # turn by turn
    assert order.index(2) > max(n for n, seed in enumerate(order) if seed == 1)  # waits for a place
    assert order[order.index(2) - 1 : order.index(2) + 1] == [1, 2]  # and has its turn at once
    assert order[-1] == 0  # the long one, which kept nobody waiting


def test_who_comes_late_gets_as_many_samples_as_the_others(
    make_engine: Callable[..., Engine],
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though its pieces are small at first, and those of the others as large as they get."""
    said: list[tuple[int, int]] = []
    advance, fed = StreamingStudent.advance, threading.Event()

    def spy(self: StreamingStudent, streams: list[Any]) -> list[torch.Tensor]:
        pieces = advance(self, streams)
        said.extend((stream._seed, len(piece)) for stream, piece in zip(streams, pieces, strict=True))
        if len(pieces[0]) == LARGEST_PIECE:
            assert fed.wait(30)  # the other one has come
        return pieces

    monkeypatch.setattr(StreamingStudent, "advance", spy)
    engine = make_engine()
    engine.start()

    async def one(seed: int, frames: int) -> None:
        with engine.speak(toy_vocoder.begin(seed=seed)) as job:
            job.feed(toy_vocoder.frames(toy_utterance(frames, seed=seed)))
            job.end()
            if seed:
                fed.set()
            async for _ in job.pieces():
                pass

    async def both() -> None:
        first = asyncio.create_task(one(0, 1000))
        while LARGEST_PIECE not in (samples for _, samples in said):
            await asyncio.sleep(0.01)
        await asyncio.gather(first, one(1, 300))

    asyncio.run(both())
    turns = [n for n, (seed, _) in enumerate(said) if seed == 1]
    own = sum(samples for seed, samples in said if seed == 1)
    others = sum(samples for seed, samples in said[turns[0] : turns[-1]] if seed == 0)
    assert own == 300 * 64
    assert 0 < others <= own + LARGEST_PIECE


def test_who_comes_is_next_though_many_have_come_before(
    make_engine: Callable[..., Engine],
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    turns: list[list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All of them at once, so that their clocks are equal."""
    engine, mel, fed = make_engine(batch=8), toy_utterance(400), threading.Event()
    spy = StreamingStudent.advance

    def advance(self: StreamingStudent, streams: list[Any]) -> list[torch.Tensor]:
        pieces = spy(self, streams)
        if len(turns) == 10:
            assert fed.wait(30)  # the last has come
        return pieces

    monkeypatch.setattr(StreamingStudent, "advance", advance)

    async def one(seed: int, there: asyncio.Barrier) -> None:
        with engine.speak(toy_vocoder.begin(seed=seed)) as job:
            job.feed(toy_vocoder.frames(mel))
            job.end()
            await there.wait()
            if not engine.alive:
                engine.start()
            await hear(job)

    async def everything() -> None:
        there = asyncio.Barrier(7)
        first = [asyncio.create_task(one(seed, there)) for seed in range(7)]
        while len(turns) < 10:
            await asyncio.sleep(0.01)
        last = asyncio.create_task(one(7, asyncio.Barrier(1)))
        await asyncio.sleep(0)
        fed.set()
        await asyncio.gather(*first, last)

    asyncio.run(everything())
    assert [seed for step in turns for seed in step].index(7) == 10


def test_where_nothing_is_carried_on_a_batch_is_one_pass(
    make_engine: Callable[..., Engine],
    toy_student: Any,
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    turns: list[list[int]],
) -> None:
    from wavenet.kernels import use_backend

    vocoder = Vocoder.from_pretrained(toy_student, device="cpu")
    with use_backend("reference"):
        assert vocoder.streaming.packed is None
    mels = [toy_utterance(frames, seed=frames) for frames in (90, 60, 30)]
    waves = speak_together(make_engine(batch=3), vocoder, mels)
    assert turns[0] == [0, 1, 2]
    for seed, (wav, mel) in enumerate(zip(waves, mels, strict=True)):
        np.testing.assert_allclose(wav, toy_vocoder(mel, seed=seed), rtol=0, atol=1e-5 * np.abs(wav).max())


def test_a_full_house_sends_away_and_a_place_is_given_back(
    make_engine: Callable[..., Engine], toy_vocoder: Vocoder
) -> None:
    engine = make_engine(batch=1, queue=1)

    async def come() -> None:
        with engine.speak(toy_vocoder.begin()), engine.speak(toy_vocoder.begin()):
            assert engine.full
            with pytest.raises(Problem, match="2 utterances") as raised, engine.speak(toy_vocoder.begin()):
                pass
            assert raised.value.status == 429
            assert "Retry-After" in raised.value.headers
        assert engine.jobs == 0

    asyncio.run(come())


def test_who_leaves_is_computed_no_further(
    make_engine: Callable[..., Engine], toy_vocoder: Vocoder, toy_utterance: Utterance, turns: list[list[int]]
) -> None:
    engine, mel = make_engine(), toy_utterance(3000)
    engine.start()

    async def leave() -> None:
        with engine.speak(toy_vocoder.begin(seed=1)) as job:
            job.feed(toy_vocoder.frames(mel))
            job.end()
            async for _ in job.pieces():
                break
        assert engine.jobs == 0
        with engine.speak(toy_vocoder.begin(seed=2)) as job:
            job.feed(toy_vocoder.frames(mel[:, :30]))
            job.end()
            await hear(job)

    asyncio.run(leave())
    computed = [seed for step in turns for seed in step]
    assert 1 not in computed[computed.index(2) :]


def test_who_feeds_does_not_wait_for_what_was_fed_before(
    make_engine: Callable[..., Engine],
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or the event loop would, which feeds."""
    engine, mel, append = make_engine(), toy_utterance(20), VocoderStream.append
    begun, go = threading.Event(), threading.Event()

    def slow(self: VocoderStream, mel: torch.Tensor) -> None:
        begun.set()
        assert go.wait(60)
        append(self, mel)

    monkeypatch.setattr(VocoderStream, "append", slow)
    engine.start()

    async def speak() -> NDArray[np.float32]:
        with engine.speak(toy_vocoder.begin()) as job:
            job.feed(toy_vocoder.frames(mel[:, :9]))
            assert await asyncio.to_thread(begun.wait, 60)
            more = asyncio.create_task(asyncio.to_thread(job.feed, toy_vocoder.frames(mel[:, 9:])))
            done, _ = await asyncio.wait([more], timeout=10)
            go.set()
            assert done, "it waited"
            job.end()
            return await hear(job)

    np.testing.assert_allclose(asyncio.run(speak()), toy_vocoder(mel), rtol=0, atol=1e-5)


def test_an_error_is_told_to_whom_it_concerns(
    make_engine: Callable[..., Engine],
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine, mel, advance = make_engine(), toy_utterance(30), StreamingStudent.advance

    def fail(self: StreamingStudent, streams: list[Any]) -> list[torch.Tensor]:
        if streams[0]._seed == 1:
            raise RuntimeError("out of luck")
        return advance(self, streams)

    monkeypatch.setattr(StreamingStudent, "advance", fail)
    engine.start()

    async def speak(seed: int) -> NDArray[np.float32]:
        with engine.speak(toy_vocoder.begin(seed=seed)) as job:
            job.feed(toy_vocoder.frames(mel))
            job.end()
            return await hear(job)

    async def both() -> list[Any]:
        return await asyncio.gather(speak(1), speak(2), return_exceptions=True)

    failed, wav = asyncio.run(both())
    assert isinstance(failed, RuntimeError)
    np.testing.assert_allclose(wav, toy_vocoder(mel, seed=2), atol=1e-5)
    assert engine.jobs == 0
    assert engine.alive
