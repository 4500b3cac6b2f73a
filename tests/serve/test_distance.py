"""A voice knows what it was trained on: how far a mel is from that, in Python and over HTTP."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.sync.client import connect

from data.bands import measure_bands
from data.dataset import PreparedCorpus
from recipes.distill_student import corpus_bands
from recipes.synthesize import Options, synthesize
from serve import Vocoder
from wavenet.checkpoint import CheckpointError

Utterance = Callable[..., NDArray[np.float32]]


@pytest.fixture(scope="module")
def knowing(toy_student: Path, toy_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that tells the bands of the toy's corpus."""
    return with_bands(
        toy_student, tmp_path_factory.mktemp("knowing"), dataclasses.asdict(corpus_bands(PreparedCorpus(toy_corpus)))
    )


def with_bands(student: Path, folder: Path, bands: dict[str, Any]) -> Path:
    shutil.copytree(student, folder, dirs_exist_ok=True)
    described = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**described, "bands": bands}))
    return folder


def test_the_bands_of_a_corpus_are_those_of_its_training_split(
    toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = PreparedCorpus(toy_corpus)
    entries = corpus.entries("train")
    assert corpus_bands(corpus) == measure_bands(map(corpus.mel_of, entries))
    monkeypatch.setattr("recipes.distill_student.BAND_CLIPS", len(entries) - 1)
    assert corpus_bands(corpus) == measure_bands(map(corpus.mel_of, entries[::2]))


def test_speech_of_the_corpus_is_near_and_silence_is_far(knowing: Path, toy_utterance: Utterance) -> None:
    vocoder = Vocoder.from_pretrained(knowing, device="cpu")
    near, silence = vocoder.distance(toy_utterance(200)), vocoder.distance(np.full((20, 200), -11.5, np.float32))
    assert near is not None and silence is not None
    assert near < 1 < silence
    assert vocoder.distance(toy_utterance(20)) is None  # 0.16 s


def test_a_voice_that_was_not_told_says_nothing(toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    assert toy_vocoder.distance(toy_utterance(200)) is None


@pytest.mark.parametrize(
    ("bands", "rule"),
    [
        ({"mean": [0.0], "spread": [1.0]}, "1 bands of a mel of 20"),
        ({"mean": [0.0], "spread": [-1.0]}, "describes no Bands .*positive"),
        ({"mean": [0.0]}, "describes no Bands .*spread"),
        ({"mean": "low", "spread": "wide"}, "describes no Bands"),
    ],
)
def test_bands_that_are_none_are_refused(toy_student: Path, tmp_path: Path, bands: dict[str, Any], rule: str) -> None:
    with pytest.raises(CheckpointError, match=rule):
        Vocoder.from_pretrained(with_bands(toy_student, tmp_path, bands), device="cpu")


def test_the_command_line_warns_and_speaks(
    knowing: Path, toy_utterance: Utterance, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "speech.npy", toy_utterance(200))
    np.save(tmp_path / "silence.npy", np.full((20, 200), -11.5, np.float32))
    inputs = [tmp_path / "speech.npy", tmp_path / "silence.npy"]
    summary = synthesize(Options(inputs, knowing, tmp_path / "out", device="cpu"))
    assert len(summary.written) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "far from" in line]
    assert len(said) == 1
    assert "silence.npy: far from the speech that the voice was trained on" in said[0]


def test_a_client_is_told(
    start_server: Callable[..., Any], knowing: Path, toy_student: Path, toy_utterance: Utterance
) -> None:
    server = start_server("--checkpoint", f"ada={knowing}", "--checkpoint", f"old={toy_student}")
    mel = toy_utterance(200)

    def told(path: str, mel: NDArray[np.float32], model: str = "ada") -> str | None:
        answer = httpx.post(f"{server.url}{path}?model={model}", json={"mel": mel.T.tolist()}, timeout=60)
        assert answer.status_code == 200
        return answer.headers.get("X-Distance")

    expected = Vocoder.from_pretrained(knowing, device="cpu").distance(mel)
    for path in ("/v1/synthesize", "/v1/stream"):
        assert told(path, mel) == f"{expected:.2f}"
        assert told(path, mel, "old") is None
    assert told("/v1/stream", toy_utterance(20)) is None
    with connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
        for message in (json.dumps({"type": "start"}), mel.T.tobytes(), json.dumps({"type": "end"})):
            socket.send(message)
        summary = next(json.loads(said) for said in socket if isinstance(said, str))
    assert summary["distance"] == pytest.approx(expected, abs=0.005)
    assert server.stop() == 0
