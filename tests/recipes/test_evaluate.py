"""`wavenet evaluate`: distances and likelihoods on held-out clips, and where they come from."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data.dataset import PreparedCorpus
from data.mel import log_mel
from recipes.evaluate import Row, report
from serve import Vocoder
from wavenet.metrics import log_mel_distance
from wavenet.pretrained import load_teacher

Finished = subprocess.CompletedProcess[str]


@pytest.fixture
def evaluate(wavenet: Callable[..., Finished], tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    """What `wavenet evaluate ARGUMENTS` writes and prints."""

    def run(*arguments: object) -> tuple[dict[str, Any], str]:
        done = wavenet("evaluate", *arguments, "--out", tmp_path / "deep" / "out", "--device", "cpu")
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / "deep" / "out" / "evaluation.json").read_text()), done.stdout

    return run


def test_teacher_and_student_are_judged_beside_the_baselines_with_provenance(
    evaluate: Callable[..., tuple[dict[str, Any], str]], toy_teacher: Path, toy_student: Path, toy_corpus: Path
) -> None:
    given = ["--checkpoint", toy_teacher, "--checkpoint", toy_student, "--data", toy_corpus]
    results, printed = evaluate(*given)
    rows = {row["name"]: row for row in results["rows"]}
    assert list(rows) == ["griffin-lim", "noise with the right envelope", str(toy_teacher), str(toy_student)]
    assert 0 < rows["griffin-lim"]["log_mel_l1"] < rows["noise with the right envelope"]["log_mel_l1"]
    assert rows[str(toy_teacher)]["log_mel_l1"] is None
    assert rows[str(toy_teacher)]["bits"] > 0
    assert rows[str(toy_student)]["log_mel_l1"] > 0
    assert rows[str(toy_student)]["bits"] is None
    assert rows[str(toy_student)]["real_time_factor"] > 0
    entries = PreparedCorpus(toy_corpus).entries("test")
    seconds = sum(entry.samples for entry in entries) / 8000
    assert results["data"] == {"split": "test", "utterances": len(entries), "seconds": pytest.approx(seconds)}
    origin = results["provenance"]
    assert origin["command"] == " ".join(["wavenet evaluate", *map(str, given), *origin["command"].split()[-4:]])
    assert set(origin) == {"command", "device", "commit", "python", "torch"}
    assert all(origin.values())
    assert all(name in printed for name in rows)


def test_the_figures_are_those_of_the_models(
    evaluate: Callable[..., tuple[dict[str, Any], str]], toy_teacher: Path, toy_student: Path, toy_corpus: Path
) -> None:
    """Of the first clip, computed here from the parts."""
    given = ["--checkpoint", toy_teacher, "--checkpoint", toy_student, "--data", toy_corpus]
    results, _ = evaluate(*given, "--limit", 1, "--split", "valid", "--seed", 4)
    *_, teacher_row, student_row = results["rows"]
    assert results["data"]["utterances"] == 1

    corpus = PreparedCorpus(toy_corpus)
    entry = corpus.entries("valid")[0]
    wav = Vocoder.from_pretrained(toy_student, device="cpu")(corpus.mel_of(entry), seed=4)
    distance = log_mel_distance(log_mel(torch.from_numpy(wav), corpus.mel).numpy(), corpus.mel_of(entry))
    assert student_row["log_mel_l1"] == pytest.approx(distance, rel=1e-4)

    model, description = load_teacher(toy_teacher)
    batch = PreparedCorpus(toy_corpus, description.gain).whole(entry)  # at the level that the model knows
    x = model.distribution.quantise(batch.wav)
    with torch.no_grad():
        nats = -model.distribution.log_density(model(x, batch.mel), x).mean()
    bits = 15 - np.log2(description.gain) + float(nats) / np.log(2)
    assert teacher_row["bits"] == pytest.approx(bits, rel=1e-4)


def test_a_teacher_speaks_too_where_that_is_asked_for(
    evaluate: Callable[..., tuple[dict[str, Any], str]], make_toy_teacher: Callable[..., Path], toy_corpus_of_two: Path
) -> None:
    duet = make_toy_teacher("gaussian", speakers=("ada", "bob"))
    results, _ = evaluate("--checkpoint", duet, "--data", toy_corpus_of_two, "--sample")
    row = results["rows"][-1]
    assert row["log_mel_l1"] > 0
    assert row["bits"] > 0
    assert row["real_time_factor"] > 0


def test_a_student_speaks_every_clip_in_its_own_voice(
    evaluate: Callable[..., tuple[dict[str, Any], str]], make_toy_student: Callable[..., Path], toy_corpus_of_two: Path
) -> None:
    duet = make_toy_student(speakers=("ada", "bob"))
    results, _ = evaluate("--checkpoint", duet, "--data", toy_corpus_of_two)
    corpus = PreparedCorpus(toy_corpus_of_two)
    vocoder = Vocoder.from_pretrained(duet, device="cpu")
    distances = []
    for entry in corpus.entries("test"):
        wav = vocoder(corpus.mel_of(entry), speaker=corpus.speakers[entry.speaker])
        distances.append(log_mel_distance(log_mel(torch.from_numpy(wav), corpus.mel).numpy(), corpus.mel_of(entry)))
    assert results["rows"][-1]["log_mel_l1"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_an_empty_cell_stands_for_a_figure_that_does_not_apply() -> None:
    lines = report([Row("a teacher", bits=5.678), Row("a student", log_mel_l1=0.12345, real_time_factor=3.0)])
    header, rule, teacher, student = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines.splitlines())
    assert header == ["", "log-mel L1 (nats)", "bits per 16-bit sample", "x real time"]
    assert all(set(cell) == {"-"} for cell in rule)
    assert teacher == ["a teacher", "", "5.68", ""]
    assert student == ["a student", "0.123", "", "3.00"]
