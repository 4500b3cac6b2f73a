"""A prepared corpus and checkpoints so small that a test can afford them: random weights, a second of audio a clip.

Their networks are the presets `tiny` of teacher and student, so that the command line can go on with them.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from data.corpora import CorpusConfig, CorpusKind
from data.mel import MelConfig
from data.prepare import PrepareConfig, prepare
from distill.fit import student_config
from distill.student import Student, StudentSize
from wavenet.checkpoint import Description, save_description, save_weights
from wavenet.distributions import OutputConfig, OutputKind
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.network import StackConfig

RATE = 8000
GAIN = 1.25
VOICES = ["ada", "bob"]


@pytest.fixture(scope="session")
def toy_mel() -> MelConfig:
    """A mel at 8 kHz that costs little: 125 frames a second."""
    return MelConfig(sample_rate=RATE, n_fft=256, win_length=256, hop_length=64, n_mels=20, fmax=4000.0)


@pytest.fixture(scope="session")
def toy_speech() -> Callable[..., NDArray[np.float32]]:
    """Something with pitch, syllables and a room's noise, (T,)."""

    def speech(seconds: float = 1.0, seed: int = 0, rate: int = RATE) -> NDArray[np.float32]:
        rng = np.random.default_rng(seed)
        t = np.arange(round(seconds * rate)) / rate
        pitch = rng.uniform(90, 220)
        tone = sum(np.sin(2 * np.pi * pitch * k * t + rng.uniform(0, 6)) / k for k in range(1, 10))
        syllables = np.sin(2 * np.pi * 2 * t + rng.uniform(0, 6)) ** 2
        return (0.15 * syllables * tone + 1e-3 * rng.standard_normal(len(t))).astype(np.float32)

    return speech


@pytest.fixture(scope="session")
def toy_recordings(
    toy_speech: Callable[..., NDArray[np.float32]], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[list[str]], Path]:
    """Folder of ten clips; of several speakers, a metadata.csv says who speaks which."""

    def record(speakers: list[str]) -> Path:
        root = tmp_path_factory.mktemp("recordings")
        for n in range(10):
            soundfile.write(root / f"clip{n}.wav", toy_speech(0.8 + 0.05 * n, seed=n), RATE, subtype="PCM_16")
        rows = [f"clip{n}|Clip number {n}.|{speakers[n % len(speakers)]}" for n in range(10) if len(speakers) > 1]
        if rows:
            (root / "metadata.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return root

    return record


@pytest.fixture(scope="session")
def prepare_toy(
    toy_mel: MelConfig, toy_recordings: Callable[[list[str]], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Prepares such recordings; two of the ten are in the test split, two in the validation split."""

    def run(speakers: list[str], mel: MelConfig = toy_mel, pitch: bool = False) -> Path:
        out = tmp_path_factory.mktemp("corpus")
        corpus = CorpusConfig(kind=CorpusKind.folder, root=str(toy_recordings(speakers)))
        prepare(PrepareConfig(corpus=corpus, mel=mel, out=str(out), valid=0.2, test=0.2, pitch=pitch, workers=0))
        return out

    return run


@pytest.fixture(scope="session")
def toy_corpus(prepare_toy: Callable[..., Path]) -> Path:
    """Prepared, of one speaker; tests read it only, as all that follows."""
    return prepare_toy(["one"])


@pytest.fixture(scope="session")
def toy_corpus_of_two(prepare_toy: Callable[..., Path]) -> Path:
    return prepare_toy(VOICES)


@pytest.fixture(scope="session")
def make_toy_teacher(toy_mel: MelConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the checkpoint of a teacher that never learnt anything."""

    def make(kind: str = "mol", speakers: tuple[str, ...] = (), mel: MelConfig = toy_mel, pitch: bool = False) -> Path:
        torch.manual_seed(0)
        stack = StackConfig(layers=6, cycle=6, kernel=3, residual=16, gate=32, skip=16)
        output = OutputConfig(kind=OutputKind(kind))
        config = WaveNetConfig(stack, 16, output, mel.n_mels, mel.hop_length, len(speakers), pitch)
        model = WaveNet(config)
        torch.nn.init.normal_(model.network.last.weight, std=0.1)  # else what it reads would hardly matter
        folder = tmp_path_factory.mktemp(f"teacher-{kind}")
        save(folder, "teacher", model, asdict(config), mel, speakers)
        return folder

    return make


@pytest.fixture(scope="session")
def make_toy_student(toy_mel: MelConfig, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes the checkpoint of a student of such a teacher."""

    def make(
        kind: str = "mol",
        speakers: tuple[str, ...] = (),
        mel: MelConfig = toy_mel,
        gain: float = GAIN,
        pitch: bool = False,
    ) -> Path:
        torch.manual_seed(1)
        output = OutputConfig(kind=OutputKind(kind))
        teacher = WaveNetConfig(StackConfig(), 16, output, mel.n_mels, mel.hop_length, len(speakers), pitch)
        config = student_config(StudentSize(flows=[4, 4], residual=16, gate=32), teacher)
        model = Student(config)
        for name, weight in model.named_parameters():
            if name.endswith("last.weight"):
                torch.nn.init.normal_(weight, std=0.1)
        folder = tmp_path_factory.mktemp(f"student-{kind}")
        save(folder, "student", model, asdict(config), mel, speakers, gain)
        return folder

    return make


@pytest.fixture(scope="session")
def toy_teacher(make_toy_teacher: Callable[..., Path]) -> Path:
    return make_toy_teacher()


@pytest.fixture(scope="session")
def toy_student(make_toy_student: Callable[..., Path]) -> Path:
    return make_toy_student()


def save(
    folder: Path,
    kind: str,
    model: torch.nn.Module,
    config: dict[str, object],
    mel: MelConfig,
    speakers: tuple[str, ...],
    gain: float = GAIN,
) -> None:
    save_weights(folder, model.state_dict())
    description = Description(kind=kind, model=config, mel=asdict(mel), gain=gain, speakers=list(speakers))
    save_description(folder, description)
