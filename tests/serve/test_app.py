"""The addresses, in this process: who is let in, what is refused, what is documented."""

import asyncio
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from starlette.testclient import WebSocketDenialResponse

from serve import Vocoder
from serve.answers import MOST_AT_ONCE, WholeResponse
from serve.app import create_app
from serve.models import Models
from serve.service import Service
from serve.settings import ServeConfig, named_checkpoints
from serve.streaming import StreamingStudent

Utterance = Callable[..., NDArray[np.float32]]
TOKEN = "open-sesame"


@pytest.fixture
def open_app(toy_student: Path) -> Iterator[Callable[..., tuple[TestClient, Service]]]:
    """A running application and what is behind it."""
    opened: list[TestClient] = []

    def start(wait: bool = True, **settings: Any) -> tuple[TestClient, Service]:
        settings = {"checkpoints": {"ada": toy_student}, "device": "cpu", **settings}
        service = Service(ServeConfig(**settings), 1)
        failures: list[Exception] = []
        client = TestClient(create_app(service, failures.append), raise_server_exceptions=False)
        client.__enter__()
        opened.append(client)
        while wait and not service.models.ready:
            assert not failures
            threading.Event().wait(0.02)
        return client, service

    yield start
    for client in opened:
        client.__exit__(None, None, None)


@pytest.fixture
def body(toy_utterance: Utterance) -> dict[str, Any]:
    """The arguments of a request for a mel."""
    buffer = io.BytesIO()
    np.save(buffer, toy_utterance(20))
    return {"content": buffer.getvalue(), "headers": {"Content-Type": "application/x-npy"}}


def assert_problem(answer: Any, status: int, rule: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["type"] == "about:blank"
    assert rule in problem["detail"], problem
    assert "Traceback" not in answer.text
    assert "/tmp" not in answer.text


def test_wrong_values_are_problems(open_app: Callable[..., Any], body: dict[str, Any]) -> None:
    client, _ = open_app()
    for query, status, rule in (
        ("seed=-1", 422, "seed is '-1'"),
        ("seed=1.5", 422, "seed is '1.5'"),
        (f"seed={2**64}", 422, "seed is"),
        ("temperature=nan", 422, "temperature is 'nan'"),
        ("temperature=-0.1", 422, "temperature is '-0.1'"),
        ("temperature=11", 422, "temperature is '11'"),
        ("format=mp3", 422, "format is 'mp3'"),
        ("sead=1", 422, "sead is no parameter"),
        ("speaker=eve", 422, "speaker 'eve' is unknown"),
        ("model=eve", 404, "model 'eve' is unknown: choose one of ada"),
        ("model=../../etc/passwd", 404, "is unknown"),
    ):
        assert_problem(client.post(f"/v1/synthesize?{query}", **body), status, rule)
    assert_problem(client.post("/v1/stream?format=flac", **body), 422, "format is 'flac'")
    assert_problem(client.get("/v1/stream"), 405, "GET")
    assert_problem(client.get("/nowhere"), 404, "nothing at this address")
    assert_problem(client.post("/v1/synthesize", content=b"x", headers={"Content-Type": "text/html"}), 415, "text/html")
    assert_problem(client.post("/v1/synthesize", content=b"x"), 415, "''")
    twice = json.dumps({"mel": [[-5.0] * 20], "seed": 1}).encode()
    answer = client.post("/v1/synthesize?seed=1", content=twice, headers={"Content-Type": "application/json"})
    assert_problem(answer, 422, "seed is both in the query and in the body")
    for name, value in (("seed", "1"), ("seed", True), ("seed", 1.5), ("temperature", None), ("speaker", 1)):
        content = json.dumps({"mel": [[-5.0] * 20], name: value}).encode()
        answer = client.post("/v1/synthesize", content=content, headers={"Content-Type": "application/json"})
        assert_problem(answer, 422, f"{name} is ")


def test_bytes_are_counted_as_they_arrive(open_app: Callable[..., Any], body: dict[str, Any]) -> None:
    client, _ = open_app(max_bytes=1000)
    assert_problem(client.post("/v1/synthesize", **body), 413, "1000 bytes")
    sent = []

    def endless() -> Iterator[bytes]:
        while len(sent) < 1000:
            sent.append(1)
            yield b"x" * 100

    answer = client.post("/v1/synthesize", content=endless(), headers=body["headers"])
    assert_problem(answer, 413, "1000 bytes")
    assert answer.headers["connection"] == "close"


def test_a_long_utterance_is_refused(open_app: Callable[..., Any], body: dict[str, Any]) -> None:
    client, _ = open_app(max_seconds=0.1)
    assert_problem(client.post("/v1/synthesize", **body), 413, "longer than the limit of 0.1 s")


def test_only_who_knows_the_token_is_let_in(open_app: Callable[..., Any], body: dict[str, Any]) -> None:
    client, _ = open_app(token=TOKEN)
    for header in ("", f"Basic {TOKEN}", "Bearer", "Bearer wrong", f"Bearer {TOKEN}x", "Bearer \u00e4"):
        headers = {**body["headers"], **({"Authorization": header.encode()} if header else {})}
        for method, path in (("POST", "/v1/synthesize"), ("GET", "/v1/models"), ("POST", "/admin/reload")):
            answer = client.request(method, path, headers=headers)
            assert_problem(answer, 401, "token")
            assert answer.headers["www-authenticate"] == "Bearer"
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/v1/stream"):
        pass
    assert denied.value.status_code == 401
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    assert client.post("/v1/synthesize", **body).status_code == 200
    assert client.post("/admin/reload").status_code == 200
    client.headers.pop("Authorization")
    assert {client.get(path).status_code for path in ("/healthz", "/readyz", "/metrics", "/openapi.json")} == {200}


def test_without_a_token_there_are_no_orders(open_app: Callable[..., Any]) -> None:
    client, _ = open_app()
    assert_problem(client.post("/admin/reload"), 403, "no token")


@pytest.mark.parametrize("origin", ["http://elsewhere.example", "http://testserver:8000", "null", "testserver", ""])
def test_pages_of_other_origins_are_sent_away(open_app: Callable[..., Any], body: dict[str, Any], origin: str) -> None:
    """A browser lets any page open a WebSocket or send a form to this machine."""
    client, _ = open_app(token=TOKEN)
    client.headers.update({"Origin": origin, "Authorization": f"Bearer {TOKEN}"})
    for path in ("/v1/synthesize", "/v1/stream", "/admin/reload"):
        answer = client.post(path, **body)
        assert_problem(answer, 403, "of another origin")
        assert not [name for name in answer.headers if "access-control" in name]
    with pytest.raises(WebSocketDenialResponse) as denied, client.websocket_connect("/v1/stream"):
        pass
    assert denied.value.status_code == 403


@pytest.mark.parametrize("host", ["testserver", "TestServer", "testserver:443"])
def test_the_page_of_this_server_is_let_in(open_app: Callable[..., Any], body: dict[str, Any], host: str) -> None:
    client, _ = open_app()
    client.headers["Origin"] = "https://TestServer"  # before which somebody else may do the TLS
    client.headers["Host"] = host
    assert client.post("/v1/synthesize", **body).status_code == 200
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        socket.send_json({"type": "end"})
        assert "zero frames" in socket.receive_json()["detail"]


def test_nobody_talks_for_ever(open_app: Callable[..., Any]) -> None:
    """However soon the next frame comes: an utterance has no more time than its longest sound takes, and patience."""
    client, _ = open_app(max_seconds=0.5, patience=1)
    said, frame = [], np.full((1, 20), -5, "<f4").tobytes()
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        hearing = threading.Thread(target=lambda: said.append(last_message(socket)))
        hearing.start()
        frames = 0
        while not said:
            socket.send_bytes(frame)
            frames += 1
            hearing.join(0.1)
    assert frames < 0.5 * 8000 / 64
    assert (said[0]["type"], said[0]["status"]) == ("problem", 408)
    assert "within 1.5 s" in said[0]["detail"]


def last_message(socket: Any) -> Any:
    while "bytes" in (message := socket.receive()):
        pass
    return json.loads(message["text"])


@pytest.mark.parametrize("before", [0, 1])
def test_a_text_is_short(open_app: Callable[..., Any], before: int) -> None:
    """It is read on the event loop, which others need."""
    client, _ = open_app()
    with client.websocket_connect("/v1/stream") as socket:
        for _ in range(before):
            socket.send_json({"type": "start"})
        socket.send_json({"type": "start", "speaker": "x" * 5000})
        problem = socket.receive_json()
    assert problem["status"] == 413
    assert "may have 4096" in problem["detail"]


def test_who_is_about_to_stop_takes_no_orders(open_app: Callable[..., Any]) -> None:
    client, service = open_app(token=TOKEN)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    service.draining = True
    assert_problem(client.post("/admin/reload"), 503, "about to stop")


def test_without_an_engine_nothing_is_ready(open_app: Callable[..., Any]) -> None:
    client, service = open_app()
    service.engine.stop()
    assert_problem(client.get("/readyz"), 503, "the engine has stopped")
    assert_problem(client.get("/healthz"), 503, "the engine has stopped")


def test_while_it_loads_it_is_alive_and_not_ready(
    open_app: Callable[..., Any], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, load = threading.Event(), Models.load
    monkeypatch.setattr(Models, "load", lambda self: (go.wait(60), load(self))[1])
    client, service = open_app(wait=False)
    assert client.get("/healthz").json() == {"status": "alive"}
    assert_problem(client.get("/readyz"), 503, "being loaded")
    answer = client.post("/v1/synthesize", **body)
    assert_problem(answer, 503, "being loaded")
    assert int(answer.headers["Retry-After"]) > 0
    go.set()
    while not service.models.ready:
        threading.Event().wait(0.02)
    assert client.get("/readyz").json() == {"status": "ready"}
    assert client.post("/v1/synthesize", **body).status_code == 200


def test_a_failure_of_ours_says_nothing_of_itself_and_the_next_request_is_answered(
    open_app: Callable[..., Any], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = open_app()
    with monkeypatch.context() as patch:
        patch.setattr(StreamingStudent, "advance", lambda *_: 1 / 0)
        for path in ("/v1/synthesize", "/v1/stream"):
            assert_problem(client.post(path, **body), 500, "its log says why")
        with client.websocket_connect("/v1/stream") as socket:
            socket.send_json({"type": "start"})
            socket.send_bytes(np.full((9, 20), -5, "<f4").tobytes())
            assert socket.receive_json()["status"] == 500
    assert client.post("/v1/synthesize", **body).status_code == 200


def test_what_happened_is_counted(open_app: Callable[..., Any], body: dict[str, Any]) -> None:
    client, _ = open_app()
    client.post("/v1/synthesize", **body)
    client.post("/v1/stream?seed=-1", **body)
    client.get("/etc/passwd")
    with client.websocket_connect("/v1/stream") as socket:
        socket.send_json({"type": "start"})
        socket.send_json({"type": "end"})
        socket.receive_json()
    lines = client.get("/metrics").text.splitlines()
    for line in (
        'wavenet_requests_total{outcome="200",route="/v1/synthesize"} 1.0',
        'wavenet_requests_total{outcome="422",route="/v1/stream"} 1.0',
        'wavenet_requests_total{outcome="404",route="other"} 1.0',
        'wavenet_requests_total{outcome="1008",route="ws /v1/stream"} 1.0',
        'wavenet_latency_seconds_count{route="/v1/synthesize"} 1.0',
        'wavenet_first_byte_seconds_count{route="/v1/synthesize"} 1.0',
        "wavenet_real_time_factor_count 1.0",
        f"wavenet_samples_total {20 * 64}.0",
        "wavenet_running_requests 0.0",
    ):
        assert line in lines, line
    assert any(line.startswith("wavenet_batch_size_count") and not line.endswith(" 0.0") for line in lines)


def test_the_document_describes_bodies_answers_and_problems(open_app: Callable[..., Any]) -> None:
    client, _ = open_app()
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {
        *("/v1/synthesize", "/v1/stream", "/v1/models", "/admin/reload"),
        *("/healthz", "/readyz", "/metrics"),
    }
    speak = paths["/v1/synthesize"]["post"]
    assert {*speak["requestBody"]["content"]} >= {"audio/wav", "application/x-npy", "application/json"}
    assert "example" in speak["requestBody"]["content"]["application/json"]
    assert {*speak["responses"]} >= {"200", "400", "401", "408", "413", "415", "422", "429", "503"}
    assert {p["name"] for p in speak["parameters"]} == {"seed", "temperature", "speaker", "model", "format"}


def test_a_voice_of_several_speakers_is_asked_by_name(
    open_app: Callable[..., Any], make_toy_student: Callable[..., Path], body: dict[str, Any], toy_utterance: Utterance
) -> None:
    folder = make_toy_student(speakers=("ada", "bob"))
    client, _ = open_app(checkpoints={"both": folder})
    assert_problem(client.post("/v1/synthesize", **body), 422, "choose one of ada, bob")
    answer = client.post("/v1/synthesize?speaker=bob&format=f32", **body)
    expected = Vocoder.from_pretrained(folder, device="cpu")(toy_utterance(20), speaker="bob")
    np.testing.assert_allclose(np.frombuffer(answer.content, "<f4"), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"checkpoints": {}}, "no checkpoint"),
        ({"checkpoints": {"a b": Path("x")}}, "'a b' does not fit"),
        ({"port": 70000}, "port is 70000"),
        ({"workers": 0}, "workers is 0"),
        ({"rounds": 17}, "rounds is 17"),
        ({"queue": -1}, "queue is -1"),
        ({"grace": 0}, "grace is 0"),
        ({"max_seconds": float("nan")}, "max_seconds is nan"),
        ({"token": "a b"}, "the token holds spaces"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        ServeConfig(**{"checkpoints": {"ada": Path("x")}, **change})


def test_checkpoints_have_names() -> None:
    assert named_checkpoints(["runs/ada", "bob=runs/ada"]) == {"ada": Path("runs/ada"), "bob": Path("runs/ada")}
    with pytest.raises(ValueError, match="two checkpoints are called 'ada'"):
        named_checkpoints(["runs/ada", "more/ada"])


def test_a_body_that_is_being_decoded_has_its_place(
    open_app: Callable[..., Any], body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So who finds none is sent away at once, not after decoding."""
    client, _ = open_app(batch=1, queue=0)
    begun, go, distance = threading.Event(), threading.Event(), Vocoder.distance

    def slow(self: Vocoder, mel: Any) -> float | None:
        begun.set()
        go.wait(10)
        return distance(self, mel)

    monkeypatch.setattr(Vocoder, "distance", slow)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/synthesize", **body)
        assert begun.wait(60)
        answer = client.post("/v1/stream", **body)
        assert not first.done()
        assert_problem(answer, 429, "1 utterances")
        assert int(answer.headers["Retry-After"]) > 0
        go.set()
        assert first.result(60).status_code == 200
    assert client.post("/v1/stream", **body).status_code == 200


def test_a_file_is_handed_over_bit_by_bit() -> None:
    """So whoever does not read it keeps little, and a place for which there is a limit."""
    content, sent = np.random.default_rng(0).bytes(3 * MOST_AT_ONCE + 1), []

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(WholeResponse(content)({"type": "http"}, None, send))  # type: ignore[arg-type]
    parts = [message["body"] for message in sent[1:]]
    assert b"".join(parts) == content
    assert max(map(len, parts)) == MOST_AT_ONCE
    assert [message["more_body"] for message in sent[1:]] == [True] * 3 + [False]


def test_one_who_replaces_another_is_ready_before_it_listens(toy_student: Path) -> None:
    service = Service(ServeConfig({"ada": toy_student}, device="cpu"), 1)
    with TestClient(create_app(service, pytest.fail, load_first=True)) as client:
        assert client.get("/readyz").json() == {"status": "ready"}
