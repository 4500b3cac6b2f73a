"""The load generator notices every kind of wrong answer, and its arithmetic is a queue's; then all of it, in short."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection, serve

from data.audio import to_pcm
from recipes import results
from recipes.serve_load import asking
from recipes.serve_load.__main__ import main
from recipes.serve_load.asking import (
    FILE,
    HANGING,
    PATHS,
    RIGHT,
    STREAM,
    TALK,
    WRONG,
    Asker,
    Question,
    Reply,
    questions,
)
from recipes.serve_load.clients import END, SAMPLES, broken, converses, leaves_conversation, start
from recipes.serve_load.load import Level, fair_queue, shared_evenly, summary, unloaded
from recipes.serve_load.report import targets
from recipes.serve_load.server import Server
from serve import Vocoder
from serve.decoding import decode
from serve.problems import Problem

ABNORMAL = 1006  # of a connection that is lost
REFUSED = b"Content-Type: application/problem+json\r\n"


@pytest.fixture(scope="module")
def question(toy_student: Path) -> Question:
    return questions(Vocoder.from_pretrained(toy_student, device="cpu"), (0.2,), seeds=1)[0]


def contents(wav: NDArray[np.float32]) -> dict[str, bytes]:
    return {path: wav.astype("<f4").tobytes() for path in (FILE, TALK)} | {STREAM: to_pcm(wav).astype("<i2").tobytes()}


@pytest.mark.parametrize("path", PATHS)
def test_only_one_pass_is_right(question: Question, path: str) -> None:
    wav = question.wav
    assert question.right(contents(wav)[path], path)
    assert question.right(contents(wav + np.float32(1e-6) * np.abs(wav).max())[path], path)
    changed = wav.copy()
    changed[len(wav) // 2] += 0.01
    for other in (changed, np.roll(wav, 1), wav[:-1], np.append(wav, np.float32(0)), 0 * wav):
        assert not question.right(contents(other)[path], path)
    assert not question.right(contents(wav)[path][:-1], path)
    assert not question.right(b"\xff" * len(contents(wav)[path]), path)


def answer(status: bytes, headers: bytes, content: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, headers, len(content), content)


def asked(question: Question, path: str, said: bytes, stays: bool = False) -> Reply:
    """The reply, where a server says this whatever comes."""

    over = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(question.body))
        writer.write(said)
        await writer.drain()
        if stays:
            await reader.read()
        writer.close()
        await writer.wait_closed()
        over.set()

    async def ask() -> Reply:
        server = await asyncio.start_server(speak, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            async with Asker(f"http://127.0.0.1:{port}", [question]) as asker:
                reply = await asker.ask(0, path)
            await over.wait()
        return reply

    return asyncio.run(ask())


@pytest.mark.parametrize("path", [FILE, STREAM])
def test_every_kind_of_answer_is_told_from_the_others(
    question: Question, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "HUNG", 0.3)
    right = contents(question.wav)[path]
    reply = asked(question, path, answer(b"200 OK", b"", right))
    assert (reply.outcome, reply.samples) == (RIGHT, len(question.wav))
    assert reply.first is not None and 0 < reply.first <= reply.seconds
    for said, outcome in (
        (answer(b"200 OK", b"", right[::-1]), WRONG),
        (answer(b"200 OK", b"", right[:-8]), WRONG),
        (answer(b"200 OK", b"", b""), WRONG),
        (answer(b"429 Too Many Requests", REFUSED + b"Retry-After: 1\r\n", b"{}"), "429"),
        (answer(b"429 Too Many Requests", REFUSED, b"{}"), "429 without Retry-After"),
        (answer(b"422 Unprocessable", b"Content-Type: text/html\r\n", b"oh"), "422 without a problem"),
        (answer(b"500 Internal Server Error", REFUSED, b"{}"), "500"),
        (answer(b"200 OK", b"", right)[:-8], "RemoteProtocolError"),
    ):
        reply = asked(question, path, said)
        assert (reply.outcome, reply.samples) == (outcome, 0)
    assert asked(question, path, answer(b"200 OK", b"", right)[:-8], stays=True).outcome == HANGING


def conversed(question: Question, *messages: str | bytes, close: int | None = 1000, reads: int | None = None) -> Reply:
    """The reply, where a server says this once it has read so many messages, by default all, and then ends or not."""

    async def converse(socket: ServerConnection) -> None:
        came = 0
        while came != reads and (isinstance(message := await socket.recv(), bytes) or "end" not in message):
            came += 1
        for message in messages:
            await socket.send(message)
        if close is None:
            await socket.wait_closed()
        elif close == ABNORMAL:
            socket.transport.abort()
        else:
            await socket.close(close)

    async def ask() -> Reply:
        async with serve(converse, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            async with Asker(f"http://127.0.0.1:{port}", [question]) as asker:
                return await asker.ask(0, TALK)

    return asyncio.run(ask())


def test_every_end_of_a_conversation_is_told_from_the_others(
    question: Question, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, summary = contents(question.wav)[TALK], json.dumps({"type": "summary"})
    half = len(right) // 8 * 4
    told = conversed(question, right[:half], right[half:], summary)
    assert (told.outcome, told.samples) == (RIGHT, len(question.wav))
    assert told.first is not None and 0 < told.first <= told.seconds

    def problem(status: int, **more: int) -> str:
        return json.dumps({"type": "problem", "status": status, "detail": "no", **more})

    for outcome, said, more in (
        (WRONG, (right[::-1], summary), {}),
        (WRONG, (right[:-8], summary), {}),
        (WRONG, (summary,), {}),
        ("429", (problem(429, retry_after=1),), {"close": 1013, "reads": 1}),
        ("503", (right, problem(503, retry_after=1)), {"close": 1013}),
        ("429 without Retry-After", (problem(429),), {"close": 1013}),
        ("422", (problem(422),), {"close": 1008, "reads": 2}),
        ("ConnectionClosedOK", (right,), {}),
        ("ConnectionClosedError", (right,), {"close": ABNORMAL}),
    ):
        told = conversed(question, *said, **more)
        assert (told.outcome, told.samples) == (outcome, 0)
    monkeypatch.setattr(asking, "HUNG", 0.3)
    assert conversed(question, right, close=None).outcome == HANGING


def test_how_a_rude_conversation_ends_is_told() -> None:
    heard: list[str] = []
    ends = iter([{"type": "summary"}, {"type": "problem", "status": 422}, {"type": "problem", "status": 429}, {}])

    async def converse(socket: ServerConnection) -> None:
        async for message in socket:
            if message == END:
                await socket.send(b"1234")
                await socket.send(json.dumps(next(ends)))
                await socket.close()

    async def ask() -> None:
        async with serve(converse, "127.0.0.1", 0) as listening:
            server = Server(f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", None)
            heard.extend([await converses(server, start(), END) for _ in range(3)])
            heard.append(await leaves_conversation(server, start(), END))

    asyncio.run(ask())
    assert heard == ["summary", "422", "429 without retry_after", SAMPLES]


def test_broken_bodies_are_broken(question: Question, toy_student: Path) -> None:
    vocoder = Vocoder.from_pretrained(toy_student, device="cpu")
    decode(question.body, "application/x-npy", vocoder, 60)
    for content in broken(question.mel):
        with pytest.raises(Problem) as raised:
            decode(content, "application/x-npy", vocoder, 60)
        assert raised.value.status == 422
    assert any(b"pathlib" in content and b"'|O'" in content for content in broken(question.mel))


def test_a_queue_that_is_shared_evenly() -> None:
    assert shared_evenly([1.0], [0.5]) == [0.5]
    assert shared_evenly([0.0, 5.0], [1.0, 2.0]) == [1.0, 2.0]  # they never meet
    np.testing.assert_allclose(shared_evenly([0.0, 0.0], [1.0, 1.0]), [2.0, 2.0])
    np.testing.assert_allclose(shared_evenly([0.0, 0.5], [1.0, 1.0]), [1.5, 1.5])
    rng = np.random.default_rng(0)
    work = list(rng.uniform(0.1, 1, 50))
    assert max(shared_evenly([0.0] * 50, work)) == pytest.approx(sum(work))  # it never idles
    gaps, one = rng.exponential(2.0, 20000), [1.0] * 20000
    slow = np.mean(shared_evenly(list(np.cumsum(gaps)), one))
    assert slow == pytest.approx(1 / (1 - 0.5), rel=0.05)  # of every processor-sharing queue at half load


def level(replies: list[Reply]) -> Level:
    return Level(replies, 100.0, 9.0, server=2.0, generator=1.0, wall=10.0, batches=2.0, lateness=0.0)


def reply(began: float, seconds: float, outcome: str = RIGHT, samples: int = 10) -> Reply:
    return Reply(0, STREAM, outcome, began, seconds / 2, seconds, samples if outcome == RIGHT else 0)


def test_throughput_is_what_was_answered_rightly_after_settling() -> None:
    replies = [reply(100, 1), reply(102, 2), reply(105, 3), reply(108, 0.5, "429"), reply(108, 9), reply(106, 1, WRONG)]
    figures = summary(level(replies), {(0, STREAM): 0.5})
    assert figures["samples_per_second"] == pytest.approx(2 * 10 / 6)
    assert figures["requests_per_second"] == pytest.approx(2 / 6)
    assert figures["outcomes"] == {RIGHT: 4, "429": 1, WRONG: 1}
    assert figures["latency"]["p50"] == 2.5
    assert figures["slowdown"]["p50"] == 5.0
    assert figures["refusal"]["p99"] == 0.5
    assert level([reply(100, 1)]).rate() == (1.0, 0.1)  # so slow that nothing came later


def test_a_fair_queue_adds_what_others_take() -> None:
    alone = {(0, STREAM): 2.0}
    assert fair_queue(level([reply(0, 9)]), alone, 10.0, [10]) == {"p50": 1.0, "p95": 1.0, "p99": 1.0}
    both = fair_queue(level([reply(0, 9), reply(0, 9)]), alone, 10.0, [10])
    assert both is not None and both["p50"] == pytest.approx(1.5)  # a second more, of two


def test_unloaded_times_are_medians_of_every_kind(question: Question) -> None:
    class Told(Asker):
        times = iter([1.0, 9.0, 3.0])

        async def all(self) -> list[Reply]:
            return [reply(0, next(self.times))]

    async def measure() -> dict[tuple[int, str], float]:
        async with Told("http://127.0.0.1:1", [question]) as asker:
            return await unloaded(asker, 3)

    assert asyncio.run(measure()) == {(0, STREAM): 3.0}


def facts(**changed: Any) -> dict[str, Any]:
    figures = {
        "outcomes": {RIGHT: 9, "429": 1},
        "samples_per_second": 90.0,
        "generator_cpu": 0.0,
        "refusal": {"p99": 0.01},
        "slowdown": {"p99": 1.5},
        "share": 0.5,
    }
    soak = {"outcomes": {RIGHT: 9}, "left_over": {"tasks": -1, "files": 0}, "minutes": 10}
    soak |= {"slope": 0.01, "range": [100.0, 101.0]}
    fault = {"fault": "slow bodies", "outcomes": {"408": 1}, "found": []}
    whole: dict[str, Any] = {
        "quick": False,
        "bare": 100.0,
        "closed": [figures],
        "open": [figures],
        "soak": soak,
        "faults": [fault],
    }
    for name, value in changed.items():
        part, _, key = name.partition("__")
        part_of = whole[part][0] if isinstance(whole[part], list) else whole[part]
        part_of[key] = value
    return whole


def missed(whole: dict[str, Any]) -> list[str]:
    return [one["target"] for one in targets(whole) if not one["holds"]]


@pytest.mark.parametrize(
    ("changed", "target"),
    [
        ({"closed__outcomes": {RIGHT: 9, WRONG: 1}}, "is one pass"),
        ({"open__outcomes": {RIGHT: 9, HANGING: 1}}, "is one pass"),
        ({"soak__outcomes": {RIGHT: 9, "500": 1}}, "is one pass"),
        ({"closed__samples_per_second": 84.0}, "of the bare engine"),
        ({"closed__refusal": {"p99": 0.06}}, "refusal"),
        ({"open__slowdown": {"p99": 2.5}}, "unloaded time"),
        ({"soak__left_over": {"tasks": 1}}, "left over"),
        ({"soak__slope": 0.3}, "memory"),
        ({"faults__found": ["500 instead of 408"]}, "slow bodies"),
    ],
)
def test_what_is_not_reached_is_said(changed: dict[str, Any], target: str) -> None:
    assert missed(facts()) == []
    named = missed(facts(**changed))
    assert len(named) == 1
    assert target in named[0]
    assert missed(facts(closed__samples_per_second=77.0, closed__generator_cpu=0.1)) == []  # 85 % of what is left


def test_speed_alone_excuses() -> None:
    """A leak does not; only seconds say nothing of it."""
    leaks = facts(soak__slope=0.3)
    assert [one["speed"] for one in targets(leaks) if not one["holds"]] == [False]
    assert missed({**leaks, "quick": True}) == []
    slow = facts(closed__samples_per_second=84.0)
    assert [one["speed"] for one in targets(slow) if not one["holds"]] == [True]


def test_wrong_usage_is_explained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for options, rule in (
        ({"only": "lunch"}, "choose among load, soak, faults"),
        ({"url": "http://127.0.0.1:1", "only": "faults"}, "another's server"),
        ({"minutes": 0.0}, "more than 0"),
        ({"workers": 0}, "workers is 0"),
    ):
        with pytest.raises(typer.BadParameter, match=rule):
            main(str(tmp_path), tmp_path / "out", **options)
    with pytest.raises(SystemExit) as ended:
        main(str(tmp_path), tmp_path / "out")
    assert ended.value.code == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_server_bears_it(toy_student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-W", "error", "-m", "recipes.serve_load", "--checkpoint", str(toy_student)]
    ran = subprocess.run(
        [*command, "--out", str(tmp_path), "--quick"], capture_output=True, text=True, timeout=280, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / "serve_load.json").read_text())
    assert [one for one in found["targets"] if not (one["holds"] or one["speed"])] == []
    assert [row["clients"] for row in found["closed"]] == [1, 8, 64]
    for row in [*found["closed"], *found["open"], found["soak"]]:
        assert row["outcomes"][RIGHT] > 0
        assert set(row["outcomes"]) <= {RIGHT, "429"}
    assert found["bare"] > 0
    assert max(found["soak"]["left_over"].values()) <= 0
    assert len(found["faults"]) == 13
    assert [row for row in found["faults"] if row["found"]] == []
    assert all(row["outcomes"] for row in found["faults"][:-1])
    assert "| 64 clients " in ran.stdout

    monkeypatch.setattr(results, "README", tmp_path / "README.md")
    monkeypatch.setattr(results, "HOME", tmp_path / "results")
    results.HOME.mkdir()
    for page in (results.README, results.HOME / "README.md"):
        page.write_text(f"before\n{results.BEGIN}\n{results.END}\nafter\n")
    with pytest.raises(ValueError, match="without --quick"):
        results.publish([f"serve={tmp_path}"])
    (tmp_path / "serve_load.json").write_text(json.dumps({**found, "quick": False}))
    results.publish([f"serve={tmp_path}"])
    told = (results.HOME / "README.md").read_text()
    assert "| 64 clients " in told
    assert "python -m recipes.serve_load --checkpoint" in told
