"""What ships is what was trained, to the precision of bfloat16."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recipes.export_voice import export_voice
from serve import Vocoder
from wavenet.checkpoint import WEIGHTS, CheckpointError, load_description


def test_an_exported_voice_speaks_as_the_run_does(make_toy_student: Callable[..., Path], tmp_path: Path) -> None:
    run, folder = make_toy_student(), tmp_path / "anna"
    size = export_voice(run, folder)
    assert size == (folder / WEIGHTS).stat().st_size < 0.7 * (run / WEIGHTS).stat().st_size
    assert load_description(folder) == load_description(run)
    before, after = Vocoder.from_pretrained(run), Vocoder.from_pretrained(folder)
    mel = np.random.default_rng(0).normal(-5, 1, (before.mel.n_mels, 20)).astype(np.float32)
    wav, error = before(mel), after(mel) - before(mel)
    assert 0 < np.square(error).mean() < 1e-3 * np.square(wav).mean()


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is not a directory"):
        export_voice(tmp_path / "nowhere", tmp_path / "anna")
    assert not (tmp_path / "anna").exists()
