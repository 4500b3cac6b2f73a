"""`wavenet evaluate`: distances and likelihoods on held-out clips, where they come from, and a page to hear them."""

import base64
import io
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import recipes.evaluate
from data.audio import from_pcm, to_pcm
from data.dataset import PreparedCorpus
from data.mel import MelConfig, log_mel
from distill.correction import ROUNDS
from distill.health import diagnose
from recipes.evaluate import Options
from recipes.evaluate_clips import Clip, Pcm, read_clips
from recipes.evaluate_measures import Figures, estimate, judge, report, row_from_json, summarise
from recipes.evaluate_page import Shown, write_page
from serve import Vocoder
from wavenet.metrics import log_mel_distance
from wavenet.objective import TeacherObjective
from wavenet.pretrained import load_teacher
from wavenet.sampling.generate import generate

Finished = subprocess.CompletedProcess[str]
Evaluate = Callable[..., tuple[dict[str, Any], str]]
GAIN = 1.25  # of the toys
BASELINES = ["griffin-lim", "world", "noise with the right envelope"]


@pytest.fixture
def evaluate(wavenet: Callable[..., Finished], tmp_path: Path) -> Evaluate:
    """What `wavenet evaluate ARGUMENTS` writes and prints."""

    def run(*arguments: object) -> tuple[dict[str, Any], str]:
        out = tmp_path / "deep" / "out"
        done = wavenet("evaluate", "--workers", 0, *arguments, "--out", out, "--device", "cpu")
        assert done.returncode == 0, done.stderr
        return json.loads((out / "evaluation.json").read_text()), done.stdout

    return run


@pytest.fixture(scope="module")
def judged(
    toy_teacher: Path, toy_student: Path, toy_corpus: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """A teacher and its student on two clips: the results, and the folder of all that was written."""
    out = tmp_path_factory.mktemp("judged")
    options = Options([toy_teacher, toy_student], toy_corpus, out, "train", clips=2, device="cpu", workers=0)
    rows = recipes.evaluate.evaluate(options)
    results = json.loads((out / "evaluation.json").read_text())
    assert [row_from_json(row) for row in results["rows"]] == rows
    return results, out


def voices_of(teacher: Path, student: Path) -> list[str]:
    """The names of all rows, in their order."""
    baselines = [name for baseline in BASELINES for name in (baseline, f"{baseline}, corrected")]
    return ["original", *baselines, str(teacher), str(student), f"{student}, uncorrected"]


def means(results: dict[str, Any], row: int | str) -> dict[str, float]:
    """The means of a row by its place or name."""
    rows = {one["name"]: one for one in results["rows"]}
    found = rows[row] if isinstance(row, str) else results["rows"][row]
    return {key: value["mean"] for key, value in found["estimates"].items()}


def test_baselines_may_be_left_out(toy_student: Path, toy_corpus: Path, tmp_path: Path) -> None:
    options = Options([toy_student], toy_corpus, tmp_path, "train", clips=1, device="cpu", workers=0, baselines=False)
    rows = recipes.evaluate.evaluate(options)
    assert [row.name for row in rows] == ["original", str(toy_student), f"{toy_student}, uncorrected"]


def test_teacher_and_student_are_judged_beside_the_original_and_baselines_with_provenance(
    judged: tuple[dict[str, Any], Path], toy_teacher: Path, toy_student: Path, toy_corpus: Path
) -> None:
    results, out = judged
    names = [row["name"] for row in results["rows"]]
    assert names == voices_of(toy_teacher, toy_student)
    kinds = ["original", *["baseline"] * 6, "teacher", "student", "student"]
    assert [row["kind"] for row in results["rows"]] == kinds
    quality = {"pesq", "stoi", "log_mel_l1", "mcd", "stft", "f0", "voicing", "high_band", "floor"}
    bands = {"band_0_1", "band_1_2", "band_2_4", "band_4_8", "band_8_11"}
    for row in results["rows"]:
        assert set(row["estimates"]) == quality | bands | ({"bits"} if row["kind"] == "teacher" else set())
        timed = row["name"] != "original" and not row["name"].endswith(", corrected")
        assert (row["real_time_factor"] is not None and row["real_time_factor"] > 0) == timed
    original, griffin_lim, noise = (means(results, name) for name in ("original", "griffin-lim", list(BASELINES)[2]))
    assert original["stoi"] == pytest.approx(1, abs=1e-3)
    assert all(original[key] == 0 for key in ("mcd", "stft", "f0", "voicing", "floor", "band_0_1"))
    assert original["log_mel_l1"] < griffin_lim["log_mel_l1"] < noise["log_mel_l1"]
    assert original["mcd"] < griffin_lim["mcd"] < noise["mcd"]
    assert means(results, str(toy_teacher))["bits"] > 0
    for name in BASELINES:
        assert means(results, f"{name}, corrected")["log_mel_l1"] < means(results, name)["log_mel_l1"]
    assert means(results, -2)["log_mel_l1"] < means(results, -1)["log_mel_l1"]
    entries = PreparedCorpus(toy_corpus).entries("train")[:2]
    seconds = sum(entry.samples for entry in entries) / 8000
    assert results["data"] == {"split": "train", "utterances": 2, "seconds": pytest.approx(seconds)}
    assert [clip["id"] for clip in results["clips"]] == [entry.id for entry in entries]
    origin = results["provenance"]
    assert set(origin) == {"command", "device", "commit", "python", "torch"}
    assert all(origin.values())
    assert all(name in (out / "evaluation.md").read_text() for name in names)
    for page in ("evaluation.md", "evaluation.html"):
        assert "of a baseline with one thread, beside others unless --workers is 0" in (out / page).read_text()


def test_what_a_clip_or_a_rate_cannot_give_is_counted_as_missing(
    judged: tuple[dict[str, Any], Path],
) -> None:
    """The toys are sampled at 8 kHz: nothing is above 4."""
    results, out = judged
    for row in results["rows"]:
        expected = {"mean": None, "low": None, "high": None, "clips": 0, "missing": 2}
        assert row["estimates"]["band_4_8"] == row["estimates"]["high_band"] == expected
        assert row["estimates"]["stft"]["missing"] == 0
    assert "none (2 missing)" in (out / "evaluation.md").read_text()
    for clip in results["clips"]:
        for figures in clip["figures"].values():
            assert "no band from 4000 to 8000 Hz" in figures["missing"]["band_4_8"]
            assert "band_4_8" not in figures["values"]


def test_the_figures_are_those_of_the_models(
    evaluate: Evaluate, toy_teacher: Path, toy_student: Path, toy_corpus: Path
) -> None:
    """Of the first clip, computed here from the parts."""
    given = ["--checkpoint", toy_teacher, "--checkpoint", toy_student, "--data", toy_corpus]
    results, _ = evaluate(*given, "--clips", 1, "--split", "valid", "--seed", 4)
    assert results["data"]["utterances"] == 1

    corpus = PreparedCorpus(toy_corpus)
    entry = corpus.entries("valid")[0]
    clip = Clip(entry.id, "one", np.array(corpus.pcm(entry)), corpus.mel_of(entry))
    verdicts = {row["name"]: row["verdict"] for row in results["rows"]}
    for name, rounds in ((str(toy_student), ROUNDS), (f"{toy_student}, uncorrected", 0)):
        vocoder = Vocoder.from_pretrained(toy_student, device="cpu", rounds=rounds)
        wav = from_pcm(to_pcm(vocoder(clip.mel, seed=4)))
        distance = log_mel_distance(log_mel(torch.from_numpy(wav), corpus.mel).numpy(), clip.mel)
        assert means(results, name)["log_mel_l1"] == pytest.approx(distance, rel=1e-4)
        judgement = judge(clip, wav, corpus.mel, GAIN)
        assert results["clips"][0]["figures"][name]["values"] == pytest.approx(judgement.values, rel=1e-3)
        assert verdicts[name] == str(diagnose(judgement.health))
    assert [bool(row["verdict"]) for row in results["rows"]] == [row["kind"] == "student" for row in results["rows"]]

    model, description = load_teacher(toy_teacher)
    said = generate(model, torch.from_numpy(clip.mel)[None], seed=4)[0] / description.gain
    figures = judge(clip, from_pcm(to_pcm(said.numpy())), corpus.mel, GAIN).values
    batch = PreparedCorpus(toy_corpus, description.gain).whole(entry)  # at the level that the model knows
    x = model.distribution.quantise(batch.wav)
    with torch.no_grad():
        nats = -model.distribution.log_density(model(x, batch.mel), x).mean()
    figures["bits"] = 15 - np.log2(description.gain) + float(nats) / np.log(2)
    assert results["clips"][0]["figures"][str(toy_teacher)]["values"] == pytest.approx(figures, rel=1e-3)
    assert means(results, str(toy_teacher))["bits"] == pytest.approx(figures["bits"], rel=1e-4)


def test_without_rounds_nothing_is_corrected(evaluate: Evaluate, toy_student: Path, toy_corpus: Path) -> None:
    results, _ = evaluate("--checkpoint", toy_student, "--data", toy_corpus, "--clips", 1, "--rounds", 0)
    assert [row["name"] for row in results["rows"]] == ["original", *BASELINES, str(toy_student)]


def test_bits_are_those_of_validation_with_the_pitch_that_was_measured(
    evaluate: Evaluate, make_toy_teacher: Callable[..., Path], prepare_toy: Callable[..., Path]
) -> None:
    singer, folder = make_toy_teacher(pitch=True), prepare_toy(["one"], pitch=True)
    results, _ = evaluate("--checkpoint", singer, "--data", folder, "--split", "valid", "--no-sample")
    model, description = load_teacher(singer)
    corpus = PreparedCorpus(folder, description.gain)
    objective = TeacherObjective(model, description.gain, corpus.mel.sample_rate, [])
    with torch.no_grad():
        bits = [objective.validate(corpus.whole(entry))["bits"] for entry in corpus.entries("valid")]
        deaf = [objective.validate(replace(corpus.whole(entry), f0=None))["bits"] for entry in corpus.entries("valid")]
    assert means(results, -1)["bits"] == pytest.approx(np.mean(bits), rel=1e-5)
    assert abs(np.mean(bits) - np.mean(deaf)) > 1e-3


def test_a_teacher_may_be_judged_by_its_likelihood_alone(
    evaluate: Evaluate, make_toy_teacher: Callable[..., Path], toy_corpus_of_two: Path
) -> None:
    duet = make_toy_teacher("gaussian", speakers=("ada", "bob"))
    results, printed = evaluate("--checkpoint", duet, "--data", toy_corpus_of_two, "--no-sample", "--clips", 1)
    row = results["rows"][-1]
    assert set(row["estimates"]) == {"bits"}
    assert row["real_time_factor"] is None
    assert str(duet) in printed


def test_a_student_speaks_every_clip_in_its_own_voice(
    evaluate: Evaluate, make_toy_student: Callable[..., Path], toy_corpus_of_two: Path
) -> None:
    duet = make_toy_student(speakers=("ada", "bob"))
    results, _ = evaluate("--checkpoint", duet, "--data", toy_corpus_of_two)
    corpus = PreparedCorpus(toy_corpus_of_two)
    vocoder = Vocoder.from_pretrained(duet, device="cpu")
    distances = []
    for entry in corpus.entries("test"):
        wav = vocoder(corpus.mel_of(entry), speaker=corpus.speakers[entry.speaker])
        heard = log_mel(torch.from_numpy(from_pcm(to_pcm(wav))), corpus.mel).numpy()
        distances.append(log_mel_distance(heard, corpus.mel_of(entry)))
    assert means(results, str(duet))["log_mel_l1"] == pytest.approx(np.mean(distances), rel=1e-4)


def test_a_plain_folder_is_judged_as_wavenet_synthesize_speaks_it(
    evaluate: Evaluate, wavenet: Callable[..., Finished], toy_student: Path, toy_speech: Any, tmp_path: Path
) -> None:
    """Sounds of another rate, whose length is no whole number of frames."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for n in range(2):
        soundfile.write(folder / f"clip{n}.flac", toy_speech(0.7 + 0.1 * n, seed=n, rate=11025), 11025)
    results, _ = evaluate("--checkpoint", toy_student, "--data", folder, "--seed", 3)
    assert results["data"]["split"] is None
    assert [clip["id"] for clip in results["clips"]] == ["clip0", "clip1"]
    spoken = ["--checkpoint", toy_student, "--out", tmp_path / "spoken", "--seed", 3, "--device", "cpu"]
    assert wavenet("synthesize", folder, *spoken).returncode == 0
    players = sounds_of((tmp_path / "deep" / "out" / "evaluation.html").read_text())
    for n in range(2):
        wav, rate = soundfile.read(tmp_path / "spoken" / f"clip{n}.wav", dtype="int16")
        assert rate == 8000
        assert np.abs(players[9 * n + 7][1].astype(int) - wav).max() <= 1  # one goes in a stream, one in a pass


def test_a_student_of_a_quiet_corpus_gets_its_verdict(
    evaluate: Evaluate, make_toy_student: Callable[..., Path], toy_speech: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "sounds"
    folder.mkdir()
    soundfile.write(folder / "quiet.wav", toy_speech(0.7) / 200, 8000, subtype="PCM_16")
    verdicts = {}
    for gain in (1.0, 200.0):
        results, _ = evaluate("--checkpoint", make_toy_student(gain=gain), "--data", folder)
        verdicts[gain] = results["rows"][-1]["verdict"]
        assert all(bool(one["health"]) == (gain > 1) for one in results["clips"][0]["figures"].values())
    assert not verdicts[1.0] and verdicts[200.0]


def test_no_more_clips_than_asked_for_and_never_none(toy_corpus: Path, toy_mel: MelConfig) -> None:
    def read(limit: int | None, seconds: float | None) -> list[str]:
        return [clip.id for clip in read_clips(toy_corpus, "train", toy_mel, limit, seconds)]

    every = read(None, None)
    lengths = [entry.samples / 8000 for entry in PreparedCorpus(toy_corpus).entries("train")]
    assert len(every) == len(lengths) > 3
    assert read(2, None) == read(2, 100.0) == every[:2]
    assert read(None, sum(lengths[:3]) + 0.01) == every[:3]
    assert read(None, 0.0) == read(1, None) == every[:1]


def test_the_page_needs_nothing_else_and_plays_what_was_judged(
    judged: tuple[dict[str, Any], Path], toy_teacher: Path, toy_student: Path, toy_corpus: Path
) -> None:
    results, out = judged
    text = (out / "evaluation.html").read_text()
    assert not re.search(r"https?://|//\w|url\(|@import|<link|<iframe", re.sub(r"base64,[^\"]*", "", text))
    assert all(where.startswith("data:") for where in re.findall(r"(?:src|href)=\"?([^\s>]*)", text))
    assert "default-src 'none'" in text
    players = sounds_of(text)
    corpus = PreparedCorpus(toy_corpus)
    entries = corpus.entries("train")[:2]
    names = voices_of(toy_teacher, toy_student)
    assert [name for name, _ in players] == names * len(entries)
    for n, entry in enumerate(entries):
        clip = Clip(entry.id, "one", np.array(corpus.pcm(entry)), corpus.mel_of(entry))
        assert np.array_equal(players[len(names) * n][1], clip.pcm)
        for name, pcm in players[len(names) * n :][: len(names)]:
            values = {**results["clips"][n]["figures"][name]["values"]}
            values.pop("bits", None)
            assert judge(clip, from_pcm(pcm), corpus.mel, GAIN).values == values
        assert (out / "spectrograms" / f"{entry.id}.png").stat().st_size > 10_000


def test_names_on_the_page_are_words_not_code(tmp_path: Path) -> None:
    name = "<script>alert('$x$ & \"y\"')</script>"
    pcm = (1000 * np.sin(np.arange(4000))).astype(np.int16)
    figures = Figures({"pesq": 1.234}, {"f0": name})
    row = summarise(name, "student", [figures], 2.0, seed=0)
    origin = {"command": f"wavenet {name}", "device": "a machine", "torch": "2", "commit": "abc1234"}
    data = {"split": None, "utterances": 1, "seconds": 0.5}
    write_page(tmp_path / "page.html", [row], [Shown(name, {name: pcm}, {name: figures})], 8000, data, origin)
    text = (tmp_path / "page.html").read_text()
    assert "alert('" not in text
    assert "1 clip of" in text
    assert "1.23" in text
    assert [heard for heard, _ in sounds_of(text)] == [name]


@pytest.mark.parametrize("name", ["pesq", "pystoi", "pyworld", "pkg_resources"])
def test_an_absent_library_is_named_with_what_to_install(
    name: str, wavenet: Callable[..., Finished], toy_student: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes.evaluate, "find_spec", lambda wanted: None if wanted == name else object())
    done = wavenet("evaluate", "--checkpoint", toy_student, "--data", toy_corpus)
    assert done.returncode == 2
    assert f"needs {name}, not installed here: pip install 'parallel-wavenet[eval]'" in done.stderr


def test_a_voice_that_says_nan_is_an_error(
    wavenet: Callable[..., Finished], toy_student: Path, toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Vocoder, "__call__", lambda *a, **k: np.full(64, np.nan, np.float32))
    done = wavenet("evaluate", "--workers", 0, "--checkpoint", toy_student, "--data", toy_corpus, "--device", "cpu")
    assert done.returncode == 1
    assert "NaN" in done.stderr


@pytest.mark.slow
def test_processes_find_what_one_finds(evaluate: Evaluate, toy_student: Path, toy_corpus: Path) -> None:
    """But for last bits, which depend on the number of threads."""
    given = ["--checkpoint", toy_student, "--data", toy_corpus]
    alone, _ = evaluate(*given)
    shared, _ = evaluate(*given, "--workers", 2)
    for one, other in zip(alone["clips"], shared["clips"], strict=True):
        for name, figures in one["figures"].items():
            assert other["figures"][name]["values"] == pytest.approx(figures["values"], rel=1e-3, abs=1e-6)


def test_an_estimate_is_of_the_clips_that_have_a_value() -> None:
    few = summarise("a", "student", [Figures({"f0": 2.0}, {}), Figures({}, {"f0": "no voice"})], None, seed=0)
    assert vars(few.estimates["f0"]) == {"mean": 2.0, "low": None, "high": None, "clips": 1, "missing": 1}
    assert estimate([1.0, 2.0, 3.0], 0, seed=1) == estimate([1.0, 2.0, 3.0], 0, seed=1)
    low, high = (getattr(estimate([1.0, 2.0, 3.0], 0, seed=1), end) for end in ("low", "high"))
    assert 1 <= low < 2 < high <= 3


def test_an_empty_cell_stands_for_a_figure_that_does_not_apply() -> None:
    def of(mean: float | None, low: float | None, high: float | None, missing: int = 0) -> dict[str, Any]:
        return {"mean": mean, "low": low, "high": high, "clips": 3, "missing": missing}

    teacher = {"name": "a teacher", "kind": "teacher", "estimates": {"bits": of(5.678, None, None)}}
    estimates = {"log_mel_l1": of(0.12345, 0.11, 0.13, 1), "band_0_1": of(-1.0, -1.5, -0.5)}
    student = {"name": "a student", "kind": "student", "estimates": estimates, "real_time_factor": 3.0}
    quality, bands = report([row_from_json(teacher), row_from_json(student)]).split("\n\n")
    header, rule, *lines = ([cell.strip() for cell in line.split("|")[1:-1]] for line in quality.splitlines())
    assert header == ["", "log-mel L1 (nats)", "bits per 16-bit sample", "x real time"]
    assert all(set(cell) == {"-"} for cell in rule)
    assert lines == [["a teacher", "", "5.68", ""], ["a student", "0.123 ± 0.010 (1 missing)", "", "3.00"]]
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in bands.splitlines()[2:]] == [
        ["a student", "-1.00 ± 0.50"]
    ]


def sounds_of(page: str) -> list[tuple[str, Pcm]]:
    """The players of a page: the name that each is given, and the samples that it decodes to."""
    found = []

    class Players(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            given = dict(attrs)
            if tag == "audio":
                kind, _, content = str(given["src"]).partition(",")
                assert kind == "data:audio/flac;base64"
                pcm, rate = soundfile.read(io.BytesIO(base64.b64decode(content)), dtype="int16")
                assert rate == 8000
                found.append((str(given["aria-label"]), pcm))

    Players().feed(page)
    return found
