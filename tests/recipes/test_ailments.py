"""The program that shows what the thresholds of health rest on."""

import sys
from pathlib import Path

import pytest
import typer

from recipes import ailments


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
