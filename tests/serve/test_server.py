"""The real server, as a process of its own: whatever happens around it, every sound is that of one pass."""

import asyncio
import contextlib
import io
import json
import os
import select
import shutil
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from data.audio import to_pcm
from data.mel import MelConfig
from serve import Vocoder
from serve.client import AsyncClient, Client, ServerError

Utterance = Callable[..., NDArray[np.float32]]
Wave = NDArray[np.float32]
TOKEN = "open-sesame"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}
HEAD = b"POST /v1/stream HTTP/1.1\r\nHost: a\r\nContent-Type: application/x-npy\r\n"
HEAD += f"Authorization: Bearer {TOKEN}\r\n".encode()
END = json.dumps({"type": "end"})


@pytest.fixture(scope="module")
def voices(make_toy_student: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two checkpoints, which tests may change."""
    folder = tmp_path_factory.mktemp("voices")
    shutil.copytree(make_toy_student(), folder / "ada")
    shutil.copytree(make_toy_student(gain=0.5), folder / "bob")
    return folder


@pytest.fixture(scope="module")
def server(start_server: Callable[..., Any], voices: Path) -> Any:
    return start_server(
        "--checkpoint", voices / "ada", "--checkpoint", f"robert={voices / 'bob'}", "--token", TOKEN, "--grace", 20
    )


@pytest.fixture(scope="module")
def impatient(start_server: Callable[..., Any], toy_student: Path) -> Any:
    return start_server("--checkpoint", toy_student, "--patience", 4, "--max-seconds", 1000)


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Client]:
    with Client(server.url, TOKEN) as connected:
        yield connected


def assert_same(wav: Wave, one_pass: Wave) -> None:
    np.testing.assert_allclose(wav, one_pass, rtol=0, atol=1e-5 * np.abs(one_pass).max())


def assert_same_file(content: bytes, one_pass: Wave) -> None:
    """16 bits, each at most one step from those of one pass."""
    pcm, rate = soundfile.read(io.BytesIO(content), dtype="int16")
    assert rate == 8000
    assert len(pcm) == len(one_pass)
    assert np.abs(pcm.astype(int) - to_pcm(one_pass)).max() <= 1


def npy(mel: Wave) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, mel)
    return buffer.getvalue()


def post(server: Any, path: str, content: bytes, kind: str = "application/x-npy", **headers: str) -> httpx.Response:
    return httpx.post(
        server.url + path, content=content, headers={**HEADERS, "Content-Type": kind, **headers}, timeout=60
    )


@contextlib.contextmanager
def conversation(server: Any, **voice: Any) -> Iterator[ClientConnection]:
    url = f"ws://127.0.0.1:{server.port}/v1/stream"
    with connect(url, additional_headers=HEADERS, max_size=None) as socket:
        socket.send(json.dumps({"type": "start", "format": "f32", **voice}))
        yield socket


def frames(mel: Wave) -> bytes:
    return np.ascontiguousarray(mel.T).tobytes()


def certain(vocoder: Vocoder, mel: Wave) -> int:
    """Samples that are said of an utterance before its end, when so much of the mel has come."""
    return len(vocoder.begin().push(vocoder.frames(mel)))


def hear(socket: ClientConnection, samples: int) -> Wave:
    """The next so many samples."""
    parts = [np.zeros(0, np.float32)]
    while sum(map(len, parts)) < samples:
        said = socket.recv(30)
        assert isinstance(said, bytes), said
        parts.append(np.frombuffer(said, np.float32))
    assert sum(map(len, parts)) == samples
    return np.concatenate(parts)


# What it says


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_file_is_one_pass(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance, format: str) -> None:
    mel = toy_utterance(60)
    answer = post(server, f"/v1/synthesize?seed=5&temperature=0.7&format={format}", npy(mel))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"audio/{format}"
    assert answer.headers["X-Samples"] == str(60 * 64)
    assert (answer.headers["X-Sample-Rate"], answer.headers["X-Seed"]) == ("8000", "5")
    assert answer.headers["X-Model"] == "ada"
    assert float(answer.headers["X-Real-Time-Factor"]) > 0
    assert_same_file(answer.content, toy_vocoder(mel, seed=5, temperature=0.7))


def test_json_says_the_same(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mel = toy_utterance(20)
    body = json.dumps({"mel": mel.T.tolist(), "seed": 2**64 - 1, "temperature": 1}).encode()
    answer = post(server, "/v1/synthesize?format=f32", body, "application/json")
    assert answer.headers["X-Seed"] == str(2**64 - 1)
    assert_same(np.frombuffer(answer.content, "<f4"), toy_vocoder(mel, seed=2**64 - 1))


def test_a_sound_is_spoken_again(
    server: Any, client: Client, toy_vocoder: Vocoder, toy_speech: Utterance, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", toy_speech(0.5, rate=16000), 16000, subtype="FLOAT")
    expected = toy_vocoder((toy_speech(0.5, rate=16000), 16000), seed=3)
    wav, rate = client.synthesize(tmp_path / "a.wav", seed=3)
    assert rate == 8000
    assert_same(wav, expected)
    with (tmp_path / "a.wav").open("rb") as file:
        answer = httpx.post(server.url + "/v1/synthesize?seed=3", files={"file": file}, headers=HEADERS, timeout=60)
    assert_same_file(answer.content, expected)


def test_a_stream_is_one_pass_with_a_true_header(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mel = toy_utterance(200)
    answer = post(server, "/v1/stream?seed=1", npy(mel))
    assert answer.headers["transfer-encoding"] == "chunked"
    assert_same_file(answer.content, toy_vocoder(mel, seed=1))
    raw = post(server, "/v1/stream?seed=1&format=s16", npy(mel))
    assert raw.headers["X-Samples"] == str(200 * 64)
    assert raw.content == answer.content[44:]


def test_another_model_is_another_voice(client: Client, make_toy_student: Any, toy_utterance: Utterance) -> None:
    assert [model["name"] for model in client.models()] == ["ada", "robert"]
    mel = toy_utterance(20)
    bob = Vocoder.from_pretrained(make_toy_student(gain=0.5), device="cpu")
    assert_same(client.synthesize(mel, model="robert")[0], bob(mel))


@settings.get_profile("serve")
@given(widths=st.lists(st.integers(1, 30), min_size=1, max_size=6), seed=st.integers(0, 2**64 - 1))
def test_a_conversation_is_one_pass(
    client: Client, toy_vocoder: Vocoder, toy_utterance: Utterance, widths: list[int], seed: int
) -> None:
    mel = toy_utterance(sum(widths))
    chunks = np.split(mel, np.cumsum(widths)[:-1], axis=1)
    assert_same(np.concatenate(list(client.speak(chunks, seed=seed))), toy_vocoder(mel, seed=seed))


def test_a_conversation_speaks_before_its_end(
    server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance, toy_mel: MelConfig
) -> None:
    mel, hop = toy_utterance(40), toy_mel.hop_length
    with conversation(server, seed=9) as socket:
        heard, said = [np.zeros(0, np.float32)], 0
        for n in range(40):
            socket.send(frames(mel[:, n : n + 1]))
            now = certain(toy_vocoder, mel[:, : n + 1])
            heard.append(hear(socket, now - said))
            said = now
        assert said > 6 * hop
        socket.send(END)
        heard.append(hear(socket, 40 * hop - said))
        summary = json.loads(socket.recv(30))
    assert_same(np.concatenate(heard), toy_vocoder(mel, seed=9))
    assert summary.pop("real_time_factor") > 0
    whole = {"type": "summary", "samples": 40 * hop, "sample_rate": 8000, "seed": 9, "model": "ada", "distance": None}
    assert summary == whole


def test_neighbours_do_not_change_a_sound(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mels = [toy_utterance(10 + 37 * n, seed=n) for n in range(12)]
    with ThreadPoolExecutor(12) as pool, Client(server.url, TOKEN) as client:
        waves = list(pool.map(lambda n: client.synthesize(mels[n], seed=n)[0], range(12)))
    for n, wav in enumerate(waves):
        assert_same(wav, toy_vocoder(mels[n], seed=n))


def test_the_asynchronous_client_hears_the_same(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mel = toy_utterance(50)

    async def chunks() -> AsyncIterator[Wave]:
        for n in range(0, 50, 7):
            yield mel[:, n : n + 7]

    async def hear_all() -> list[Wave]:
        async with AsyncClient(server.url, TOKEN) as client:
            whole, rate = await client.synthesize(mel, seed=4)
            assert rate == 8000
            streamed = [piece async for piece in client.stream(mel, seed=4)]
            spoken = [piece async for piece in client.speak(chunks(), seed=4)]
            assert len(await client.models()) == 2
            return [whole, np.concatenate(streamed), np.concatenate(spoken)]

    for wav in asyncio.run(hear_all()):
        assert_same(wav, toy_vocoder(mel, seed=4))


def test_a_client_is_told_why(server: Any, client: Client, toy_utterance: Utterance) -> None:
    mel = toy_utterance(5)
    for ask in (client.synthesize, lambda given, **voice: list(client.stream(given, **voice))):
        with pytest.raises(ServerError, match="model 'eve' is unknown") as raised:
            ask(mel, model="eve")
        assert raised.value.status == 404
    with pytest.raises(ServerError, match="model 'eve' is unknown"):
        list(client.speak([mel], model="eve"))
    with Client(server.url, "wrong") as stranger, pytest.raises(ServerError, match="token"):
        stranger.synthesize(mel)


# What it survives


@pytest.mark.parametrize(
    ("messages", "status", "rule"),
    [
        ([b"12"], 400, "begins with frames"),
        (["no json"], 400, "no JSON object"),
        (["[1]"], 400, "no JSON object"),
        ([{"type": "begin"}], 422, "type is 'begin'"),
        ([{"seed": "1"}], 422, "seed is '1'"),
        ([{"seed": -1}], 422, "seed is -1"),
        ([{"temperature": 11}], 422, "temperature is 11"),
        ([{"sead": 1}], 422, "sead is no parameter"),
        ([{"format": "wav"}], 422, "choose s16 or f32"),
        ([{"model": "eve"}], 404, "'eve' is unknown"),
        ([{"speaker": "eve"}], 422, "'eve' is unknown"),
        ([{}, b"123"], 422, "3 bytes are no frames"),
        ([{}, b""], 422, "0 bytes"),
        ([{}, b"\xff" * 80], 422, "NaN"),
        ([{}, END], 422, "zero frames"),
        ([{}, {"type": "stop"}], 400, "neither frames nor the end"),
        ([{}, frames(np.full((20, 7501), -5, np.float32))], 413, "longer than the limit of 60 s"),
        ([{}, frames(np.full((20, 4000), -5, np.float32)), END, END], 400, "after the end"),
    ],
)
def test_a_conversation_that_goes_wrong_ends_with_a_problem(
    server: Any, messages: list[Any], status: int, rule: str
) -> None:
    with connect(f"ws://127.0.0.1:{server.port}/v1/stream", additional_headers=HEADERS, max_size=None) as socket:
        for message in messages:
            socket.send(json.dumps(message) if isinstance(message, dict) else message)
        while isinstance(said := socket.recv(30), bytes):
            pass
        problem = json.loads(said)
        assert (problem["type"], problem["status"]) == ("problem", status)
        assert rule in problem["detail"]
        with pytest.raises(ConnectionClosed):
            socket.recv(30)
    server.wait_until(lambda: server.counted("wavenet_running_requests") == 0, "end of the conversation")


@settings.get_profile("serve")
@given(
    messages=st.lists(
        st.text(max_size=20) | st.binary(max_size=200) | st.just(frames(np.full((20, 2), -5.0, np.float32)))
    )
)
def test_no_message_breaks_a_conversation_other_than_by_a_problem(server: Any, messages: list[str | bytes]) -> None:
    with conversation(server) as socket, contextlib.suppress(ConnectionClosed):
        for message in messages:
            socket.send(message)
        socket.send(END)
        while isinstance(said := socket.recv(30), bytes):
            pass
        assert json.loads(said)["type"] in ("problem", "summary")
        assert json.loads(said).get("status", 200) < 500


@settings.get_profile("serve")
@given(content=st.binary(max_size=400))
def test_bytes_that_are_no_http_leave_the_server_alive(server: Any, content: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
        raw.sendall(content)
        raw.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while raw.recv(4000):
                pass
    assert server.get("/readyz").status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_what_is_no_http_is_a_problem(server: Any) -> None:
    with socket_to(server) as raw:
        raw.sendall(b"hello, are you there?\r\n\r\n")
        head, _, body = b"".join(iter(lambda: raw.recv(4000), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == 400
    assert "no request of HTTP" in json.loads(body)["detail"]


def test_a_client_that_goes_away_frees_its_place(server: Any, toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mel = toy_utterance(40)
    with conversation(server) as socket:
        socket.send(frames(mel))
        hear(socket, certain(toy_vocoder, mel))
        assert server.counted("wavenet_running_requests") == 1
    server.wait_until(lambda: server.counted("wavenet_running_requests") == 0, "end of the conversation")
    before = server.counted("wavenet_samples_total")
    content = npy(np.tile(toy_utterance(100), (1, 70)))
    with socket_to(server) as raw:
        raw.sendall(HEAD + f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        assert b"200 OK" in raw.recv(2000)
    server.wait_until(lambda: server.counted("wavenet_running_requests") == 0, "end of the stream")
    assert server.counted("wavenet_samples_total") - before < 7000 * 64


@pytest.mark.parametrize("path", ["/v1/synthesize", "/v1/stream", "conversation"])
def test_a_client_that_stays_and_does_not_read_frees_its_place(
    impatient: Any, toy_utterance: Utterance, path: str
) -> None:
    """Though it asks for more than the system's buffers hold."""
    mel, before = np.tile(toy_utterance(100), (1, 400)), impatient.counted("wavenet_samples_total")
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.settimeout(60)
        silent.connect(("127.0.0.1", impatient.port))
        if path == "conversation":
            silent.sendall(b"GET /v1/stream HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
            silent.sendall(b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n")
            assert b" 101 " in silent.recv(4000)  # before which nobody may speak
            for opcode, content in ((1, b'{"format": "f32"}'), (2, frames(mel)), (1, END.encode())):
                silent.sendall(struct.pack(">BBQI", 0x80 + opcode, 0xFF, len(content), 0) + content)
        else:
            content = npy(mel)
            silent.sendall(HEAD.replace(b"/v1/stream", f"{path}?format=f32".encode()))
            silent.sendall(f"Content-Length: {len(content)}\r\n\r\n".encode() + content)
        poll = select.poll()
        poll.register(silent, 0)
        assert poll.poll(60_000), "it is still connected"
    impatient.wait_until(lambda: impatient.counted("wavenet_running_requests") == 0, "end of the answer")
    assert impatient.counted("wavenet_samples_total") > before, "it was sent away before it could have read"
    assert impatient.get("/readyz").status_code == 200
    assert "Traceback" not in impatient.log.read_text()


def socket_to(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_a_new_checkpoint_is_spoken_with_and_a_broken_one_is_not(
    server: Any, client: Client, voices: Path, make_toy_student: Any, toy_vocoder: Vocoder, toy_utterance: Utterance
) -> None:
    mel, quiet = toy_utterance(40), make_toy_student("gaussian", gain=2.0)
    with conversation(server, seed=1) as socket:  # begun with the old one
        socket.send(frames(mel))
        heard = [hear(socket, certain(toy_vocoder, mel))]
        shutil.copytree(quiet, voices / "ada", dirs_exist_ok=True)
        answer = httpx.post(server.url + "/admin/reload", headers=HEADERS, timeout=60)
        assert answer.status_code == 200
        new = Vocoder.from_pretrained(quiet, device="cpu")(mel, seed=1)
        assert_same(client.synthesize(mel, seed=1)[0], new)
        socket.send(END)
        heard.append(hear(socket, 40 * 64 - len(heard[0])))
    assert_same(np.concatenate(heard), toy_vocoder(mel, seed=1))

    weights = voices / "ada" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    answer = httpx.post(server.url + "/admin/reload", headers=HEADERS, timeout=60)
    assert answer.status_code == 409
    assert str(voices) not in answer.text
    server.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: server.log.read_text().count("the old ones are kept") == 2, "refusal")
    assert_same(client.synthesize(mel, seed=1)[0], new)

    loaded = client.models()[0]["loaded"]
    shutil.copytree(make_toy_student(), voices / "ada", dirs_exist_ok=True)
    server.process.send_signal(signal.SIGHUP)
    server.wait_until(lambda: client.models()[0]["loaded"] > loaded, "reload")
    assert_same(client.synthesize(mel, seed=1)[0], toy_vocoder(mel, seed=1))


def test_whoever_is_too_many_or_too_late_is_sent_away(
    start_server: Callable[..., Any], toy_student: Path, toy_vocoder: Vocoder, toy_utterance: Utterance
) -> None:
    """The end of it is a drain: what runs is finished, what comes is refused."""
    mel = toy_utterance(40)
    said = certain(toy_vocoder, mel)
    server = start_server("--checkpoint", toy_student, "--batch", 3, "--queue", 0, "--grace", 100)
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(conversation(server, seed=n)) for n in range(3)]
        for socket in sockets:
            socket.send(frames(mel))
            hear(socket, said)
        answer = post(server, "/v1/synthesize", npy(mel))
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) > 0

        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: server.get("/readyz").status_code == 503, "drain")
        assert server.get("/healthz").status_code == 200
        answer = post(server, "/v1/synthesize", npy(mel))
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert "stop" in answer.json()["detail"]
        for n, socket in enumerate(sockets):
            socket.send(END)
            assert_same(hear(socket, 40 * 64 - said), toy_vocoder(mel, seed=n)[said:])
            assert json.loads(socket.recv(30))["samples"] == 40 * 64
    assert server.end() == 0


def test_what_does_not_end_is_broken_off(
    start_server: Callable[..., Any], toy_student: Path, toy_vocoder: Vocoder, toy_utterance: Utterance
) -> None:
    """At the end of the grace period, or nobody could ever stop the server."""
    server = start_server("--checkpoint", toy_student, "--grace", 1, "--token", TOKEN)
    idle, slow = socket_to(server), socket_to(server)
    with conversation(server) as talking, idle, slow:
        mel = toy_utterance(40)
        talking.send(frames(mel))
        hear(talking, certain(toy_vocoder, mel))
        slow.sendall(HEAD + b"Content-Length: 9\r\n\r\n123")
        server.wait_until(lambda: server.counted("wavenet_running_requests") == 2, "two requests")
        server.process.send_signal(signal.SIGTERM)
        said = json.loads(talking.recv(30))
        assert (said["type"], said["status"]) == ("problem", 503)
        assert slow.recv(4000).startswith(b"HTTP/1.1 503")
        with pytest.raises(ConnectionRefusedError):
            while True:
                socket_to(server).close()
                time.sleep(0.02)  # a full backlog would drop one, which then comes a second later
        idle.sendall(HEAD + b"Content-Length: 0\r\n\r\n")  # its connection was there before
        assert idle.recv(4000).startswith(b"HTTP/1.1 503")
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()


def workers(server: Any) -> list[int]:
    found = []
    for pid in Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(int(pid))
    return found


def both_have_loaded(server: Any, replaced: int = 0) -> None:
    """One answers that it is ready as soon as itself is."""
    loaded = 2 + replaced
    server.wait_until(lambda: server.log.read_text().count("speaking: ") == loaded, "second worker with its models")


def drains(server: Any) -> bool:
    try:
        return server.get("/readyz").status_code == 503
    except httpx.TransportError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_of_a_server_lets_them_finish(
    start_server: Callable[..., Any], toy_student: Path, toy_vocoder: Vocoder, toy_utterance: Utterance, number: int
) -> None:
    """A terminal's Ctrl-C, and what systemd sends to a control group."""
    mel = toy_utterance(40)
    said = certain(toy_vocoder, mel)
    server = start_server("--checkpoint", toy_student, "--workers", 2, "--grace", 100)
    both_have_loaded(server)
    with conversation(server, seed=1) as talking:
        talking.send(frames(mel))
        hear(talking, said)
        os.killpg(server.process.pid, number)
        server.wait_until(lambda: len(workers(server)) <= 1, "end of the worker that has nothing to do")
        talking.send(END)
        assert_same(hear(talking, 40 * 64 - said), toy_vocoder(mel, seed=1)[said:])
        assert json.loads(talking.recv(30))["samples"] == 40 * 64
    assert server.end() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_two_signals_end_a_server_at_once(
    start_server: Callable[..., Any], toy_student: Path, toy_vocoder: Vocoder, toy_utterance: Utterance
) -> None:
    mel = toy_utterance(40)
    server = start_server("--checkpoint", toy_student, "--workers", 2, "--grace", 1000)
    both_have_loaded(server)
    with conversation(server) as talking:
        talking.send(frames(mel))
        hear(talking, certain(toy_vocoder, mel))
        server.process.send_signal(signal.SIGINT)
        server.wait_until(lambda: len(workers(server)) == 1 and drains(server), "drain")
        server.process.send_signal(signal.SIGINT)
        assert server.end() == 0


@pytest.mark.slow
def test_a_worker_that_dies_is_replaced(
    start_server: Callable[..., Any],
    toy_student: Path,
    toy_vocoder: Vocoder,
    toy_utterance: Utterance,
    tmp_path: Path,
) -> None:
    """Even where its checkpoint has meanwhile been broken, as soon as that has been mended."""
    voice = Path(shutil.copytree(toy_student, tmp_path / "voice"))
    server = start_server("--checkpoint", voice, "--workers", 2, "--token", TOKEN, "--patience", 3)
    mel = toy_utterance(40)
    expected = toy_vocoder(mel, seed=1)

    def speaks() -> bool:
        try:
            with Client(server.url, TOKEN) as client:
                assert_same(client.synthesize(mel, seed=1)[0], expected)
        except (httpx.TransportError, ServerError):
            return False
        return True

    both_have_loaded(server)
    assert speaks()
    victim, other = workers(server)
    os.kill(victim, signal.SIGKILL)
    server.wait_until(lambda: len(workers(server)) == 2 and victim not in workers(server), "new worker")
    assert other in workers(server)
    both_have_loaded(server, replaced=1)
    assert speaks()
    assert server.counted("wavenet_samples_total") >= 2 * len(expected)
    httpx.post(server.url + "/admin/reload", headers=HEADERS, timeout=60).raise_for_status()
    server.wait_until(speaks, "speech")
    with socket_to(server) as raw:
        raw.sendall(HEAD + b"Content-Length: 9\r\n\r\n123")
        answer = b"".join(iter(lambda: raw.recv(4000), b""))
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"within 3 s" in answer

    weights = voice / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-8])
    victim, other = workers(server)
    os.kill(victim, signal.SIGKILL)
    server.wait_until(lambda: len(workers(server)) == 2 and victim not in workers(server), "new worker")
    server.wait_until(lambda: len(workers(server)) == 1, "end of the new worker")
    assert workers(server) == [other]
    assert speaks()
    weights.write_bytes(whole)
    os.kill(other, signal.SIGKILL)
    server.wait_until(lambda: other not in workers(server) and speaks(), "speech of a new worker")
    assert server.stop() == 0
