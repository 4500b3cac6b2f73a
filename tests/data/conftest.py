"""A small corpus of recordings, and its prepared folder; the tests of `data` share both."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from data.corpora import CorpusConfig, CorpusKind
from data.dataset import PreparedCorpus
from data.mel import MelConfig
from data.prepare import PrepareConfig, prepare

RATE = 8000


def _voice(seconds: float, seed: int) -> npt.NDArray[np.float32]:
    """Something with pitch, pauses and noise, (T,) at 8 kHz."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * RATE)) / RATE
    tone = sum(np.sin(2 * np.pi * 140 * k * t + rng.uniform(0, 6)) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 1.5 * t + seed), 0, None)
    wav = 0.1 * rng.uniform(0.5, 1.5) * syllables * tone + 2e-4 * rng.standard_normal(len(t))
    return wav.astype(np.float32)


@pytest.fixture(scope="session")
def small_mel() -> MelConfig:
    """A mel at 8 kHz that costs little."""
    return MelConfig(sample_rate=RATE, n_fft=256, win_length=256, hop_length=64, n_mels=20, fmax=4000.0)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of two speakers, 0.6 to 1.7 s."""
    root = tmp_path_factory.mktemp("recordings")
    rows = ["id|text|speaker|seconds"]
    for n in range(12):
        seconds = 0.6 + 0.1 * n
        soundfile.write(root / f"clip{n:02d}.flac", _voice(seconds, n), RATE)
        rows.append(f"clip{n:02d}|Clip number {n}.|{'ada' if n % 3 else 'bob'}|{seconds:.3f}")
    (root / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def prepare_config(recordings: Path, small_mel: MelConfig, tmp_path_factory: pytest.TempPathFactory) -> PrepareConfig:
    """How `prepared` was made."""
    corpus = CorpusConfig(kind=CorpusKind.folder, root=str(recordings))
    return PrepareConfig(corpus=corpus, mel=small_mel, out=str(tmp_path_factory.mktemp("out") / "corpus"), workers=0)


@pytest.fixture(scope="session")
def prepared(prepare_config: PrepareConfig) -> PreparedCorpus:
    """The recordings, prepared; tests read it only."""
    prepare(prepare_config)
    return PreparedCorpus(prepare_config.out)
