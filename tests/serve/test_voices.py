"""Checkpoints by path, and by the names of the voices that ship."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serve import Vocoder, voices
from wavenet.checkpoint import CheckpointError, load_description


@pytest.fixture
def anna(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_toy_student: Callable[..., Path]) -> Path:
    """A voice that ships."""
    home = tmp_path / "voices"
    shutil.copytree(make_toy_student(), home / "anna")
    monkeypatch.setattr(voices, "HOME", home)
    return home / "anna"


def test_a_voice_is_found_by_its_name(anna: Path) -> None:
    assert voices.voices() == ["anna"]
    assert voices.find_checkpoint("anna") == anna
    mel = np.zeros((Vocoder.from_pretrained(anna).mel.n_mels, 5), np.float32)
    assert np.array_equal(Vocoder.from_pretrained("anna")(mel), Vocoder.from_pretrained(anna)(mel))


def test_a_directory_comes_before_a_voice_of_the_same_name(
    anna: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "anna").mkdir()
    monkeypatch.chdir(tmp_path)
    assert voices.find_checkpoint("anna") == Path("anna")


@pytest.mark.usefixtures("anna")
def test_what_is_neither_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(CheckpointError, match=r"bob is not a directory.*\(anna\)"):
        voices.find_checkpoint("bob")


@pytest.mark.parametrize("name", voices.voices())
def test_every_voice_that_ships_explains_itself(name: str) -> None:
    folder = voices.HOME / name
    assert load_description(folder).kind in ("teacher", "student")
    assert "CC0" in (folder / "README.md").read_text()
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15e6
