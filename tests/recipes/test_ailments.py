"""The program that shows what the thresholds of health rest on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from data.dataset import SILENCE_PEAK, PreparedCorpus
from data.manifest import Entry
from recipes import ailments
from recipes.configuration import ConfigError


@pytest.mark.slow
def test_every_version_of_a_recording_gets_a_row_with_its_verdict(
    toy_corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ailments", str(toy_corpus), "--clips", "2", "--split", "train"])
    with pytest.raises(SystemExit) as ended:
        typer.run(ailments.main)
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in lines[0].strip("|").split("|")] == ["", *ailments.SHOWN, "verdict"]
    verdicts = {name.strip(): verdict.strip() for _, name, *_, verdict, _ in (line.split("|") for line in lines[2:-2])}
    assert len(verdicts) == 13
    assert verdicts["original"] == "healthy (2)"
    assert verdicts["30 dB quieter"] == "too quiet (2)"
    assert verdicts["whisper"] == "whispering (2)"
    assert verdicts["noise of scale 1"] == "exploding scale (2)"
    assert "commit" in lines[-1]


def test_recordings_that_are_silent_are_passed_over(toy_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = PreparedCorpus(toy_corpus)
    silent, *heard = corpus.entries("train")
    whole = corpus.wav

    def wav(entry: Entry) -> np.ndarray:
        return np.full_like(whole(entry), SILENCE_PEAK) if entry == silent else whole(entry)

    monkeypatch.setattr(corpus, "wav", wav)
    monkeypatch.setattr(corpus, "entries", lambda split: [silent, *heard])
    figures = ailments.judged(corpus, "train", clips=2)
    monkeypatch.setattr(corpus, "entries", lambda split: heard)
    assert figures == ailments.judged(corpus, "train", clips=2)
    assert "healthy (2)" in ailments.report(figures)
    monkeypatch.setattr(corpus, "entries", lambda split: [silent, heard[0]])
    with pytest.raises(ConfigError, match="'train' has too few recordings that are not silent: 1,"):
        ailments.judged(corpus, "train", clips=2)


def test_recordings_are_silent_at_the_level_that_the_network_hears(
    toy_corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files 200 times quieter, made up for by the gain."""
    corpus, quiet = PreparedCorpus(toy_corpus), PreparedCorpus(toy_corpus)
    monkeypatch.setattr(quiet, "gain", 200 * corpus.gain)
    monkeypatch.setattr(quiet, "wav", corpus.wav)
    original = ailments.judged(quiet, "train", clips=2)["original"]
    assert [figures["level_db"] for figures in original] == [0.0, 0.0]
