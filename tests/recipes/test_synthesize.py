"""`wavenet synthesize`: a wav for every sound file or mel."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from data.mel import MelConfig, log_mel
from serve import Vocoder

Finished = subprocess.CompletedProcess[str]
Speech = Callable[..., NDArray[np.float32]]


@pytest.fixture
def folder(tmp_path: Path, toy_mel: MelConfig, toy_speech: Speech, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user stands: speech.wav, whose last frame is not whole, and its mel."""
    wav = toy_speech(0.21)
    soundfile.write(tmp_path / "speech.wav", wav, toy_mel.sample_rate, subtype="FLOAT")
    np.save(tmp_path / "features.npy", log_mel(torch.from_numpy(wav), toy_mel).numpy())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def speak(folder: Path, toy_student: Path, wavenet: Callable[..., Finished]) -> Callable[..., Finished]:
    """`wavenet synthesize ARGUMENTS --checkpoint STUDENT`, which must succeed."""

    def run(*arguments: object, checkpoint: Path = toy_student) -> Finished:
        done = wavenet("synthesize", *arguments, "--checkpoint", checkpoint)
        assert done.returncode == 0, done.stderr
        return done

    return run


def test_a_recording_is_answered_under_its_stem_with_a_16_bit_wav_of_whole_frames(
    speak: Callable[..., Finished], folder: Path, toy_mel: MelConfig
) -> None:
    done = speak("speech.wav", "--out", "deep/out")
    assert [path.name for path in (folder / "deep/out").iterdir()] == ["speech.wav"]
    with soundfile.SoundFile("deep/out/speech.wav") as file:
        assert (file.samplerate, file.channels, file.subtype) == (toy_mel.sample_rate, 1, "PCM_16")
        assert file.frames == np.load("features.npy").shape[1] * toy_mel.hop_length
        assert np.abs(file.read()).max() > 0
    assert "1 files, 0.2 s of audio" in done.stdout
    assert "x real time" in done.stdout


def test_the_file_is_what_the_vocoder_says(speak: Callable[..., Finished], folder: Path, toy_student: Path) -> None:
    speak("features.npy", "--out", "out", "--seed", 3, "--temperature", 0.7)
    expected = Vocoder.from_pretrained(toy_student, device="cpu")(np.load("features.npy"), seed=3, temperature=0.7)
    wav, _ = soundfile.read("out/features.wav")
    np.testing.assert_allclose(wav, expected.clip(-1, 1 - 2**-15), atol=2**-15)


def test_a_sound_and_its_mel_are_spoken_alike(speak: Callable[..., Finished], folder: Path) -> None:
    speak("speech.wav", "features.npy", "--out", "out")
    assert Path("out/speech.wav").read_bytes() == Path("out/features.wav").read_bytes()


def test_the_same_seed_gives_the_same_file_and_another_seed_another(
    speak: Callable[..., Finished], folder: Path
) -> None:
    for out, seed in (("a", 1), ("b", 1), ("c", 2)):
        speak("speech.wav", "--out", out, "--seed", seed)
    a, b, c = (Path(out, "speech.wav").read_bytes() for out in "abc")
    assert a == b
    assert a != c


def test_without_temperature_the_seed_does_not_matter(speak: Callable[..., Finished], folder: Path) -> None:
    for out, seed in (("a", 1), ("b", 2)):
        speak("speech.wav", "--out", out, "--seed", seed, "--temperature", 0)
    assert Path("a/speech.wav").read_bytes() == Path("b/speech.wav").read_bytes()


def test_another_sampling_rate_is_resampled_and_said(
    speak: Callable[..., Finished], folder: Path, toy_mel: MelConfig, toy_speech: Speech
) -> None:
    stereo = np.stack([toy_speech(0.3, rate=16_000)] * 2, axis=1)
    soundfile.write("wide.flac", stereo, 16_000)
    done = speak("wide.flac", "speech.wav", "--out", "out")
    assert "wide.flac: resampled from 16000 to 8000 Hz" in done.stderr
    assert "speech.wav: resampled" not in done.stderr
    assert soundfile.info("out/wide.wav").samplerate == toy_mel.sample_rate
    assert soundfile.info("out/wide.wav").frames == int(0.3 * 8000) // toy_mel.hop_length * toy_mel.hop_length


def test_what_cannot_be_resampled_or_read_is_named_and_the_others_are_spoken(
    wavenet: Callable[..., Finished], folder: Path, toy_student: Path, toy_speech: Speech
) -> None:
    Path("in").mkdir()
    soundfile.write("in/odd.wav", toy_speech(0.3, rate=8_000), 8_001)
    Path("in/archive.npy").write_bytes(b"PK\x03\x04 cut off")
    Path("speech.wav").rename("in/speech.wav")
    done = wavenet("synthesize", "in", "--out", "out", "--checkpoint", toy_student)
    assert done.returncode == 2
    assert "refused: in/archive.npy: not a plain .npy array" in done.stderr
    assert "refused: in/odd.wav: the sampling rate is 8001 Hz" in done.stderr
    assert [path.name for path in Path("out").iterdir()] == ["speech.wav"]


def test_a_plot_is_a_picture_beside_the_wav(speak: Callable[..., Finished], folder: Path) -> None:
    Path("speech.wav").rename("it costs $1 or $^2.wav")  # two dollars would make a formula of it
    speak("it costs $1 or $^2.wav", "--out", "out", "--plot")
    picture = matplotlib.image.imread("out/it costs $1 or $^2.png")
    assert picture.shape[0] > 300
    assert picture.shape[1] > 300
    assert picture[..., :3].std() > 0.1


def test_no_picture_without_plot(speak: Callable[..., Finished], folder: Path) -> None:
    speak("speech.wav", "--out", "out")
    assert not list(folder.rglob("*.png"))


def test_an_earlier_answer_is_replaced_and_other_files_are_left(speak: Callable[..., Finished], folder: Path) -> None:
    Path("out").mkdir()
    Path("out/speech.wav").write_bytes(b"an earlier answer")
    Path("out/other.wav").write_bytes(b"someone else's")
    speak("speech.wav", "--out", "out")
    assert soundfile.info("out/speech.wav").frames > 0
    assert Path("out/other.wav").read_bytes() == b"someone else's"


def test_a_speaker_is_chosen_by_name(
    speak: Callable[..., Finished],
    folder: Path,
    make_toy_student: Callable[..., Path],
    wavenet: Callable[..., Finished],
) -> None:
    duet = make_toy_student(speakers=("ada", "bob"))
    for name in ("ada", "bob"):
        speak("speech.wav", "--out", name, "--speaker", name, checkpoint=duet)
    assert Path("ada/speech.wav").read_bytes() != Path("bob/speech.wav").read_bytes()
    done = wavenet("synthesize", "speech.wav", "--out", "out", "--checkpoint", duet)
    assert done.returncode == 2
    assert "choose one of ada, bob" in done.stderr
    assert not Path("out").exists()


def test_bfloat16_says_nearly_the_same(speak: Callable[..., Finished], folder: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        speak("speech.wav", "--out", dtype, "--dtype", dtype)
    exact, fast = (soundfile.read(f"{dtype}/speech.wav")[0] for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(exact - fast).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
def test_a_teacher_speaks_one_sample_at_a_time(
    speak: Callable[..., Finished], folder: Path, make_toy_teacher: Callable[..., Path], toy_mel: MelConfig, kind: str
) -> None:
    np.save("features.npy", np.load("features.npy")[:, :5])
    teacher = make_toy_teacher(kind)
    for out, seed in (("a", 0), ("b", 0), ("c", 1)):
        speak("features.npy", "--out", out, "--backend", "numba", "--seed", seed, checkpoint=teacher)
    a, b, c = (soundfile.read(f"{out}/features.wav")[0] for out in "abc")
    assert len(a) == 5 * toy_mel.hop_length
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-3


def test_the_backends_of_a_teacher_begin_alike(
    speak: Callable[..., Finished], folder: Path, toy_teacher: Path, toy_mel: MelConfig
) -> None:
    """Running free in float32 they may part later; the tests of the samplers compare them under one history."""
    np.save("features.npy", np.load("features.npy")[:, :1])
    for backend in ("naive", "cached", "numba"):
        speak("features.npy", "--out", backend, "--backend", backend, checkpoint=toy_teacher)
    naive, cached, numba = (soundfile.read(f"{name}/features.wav")[0][:20] for name in ("naive", "cached", "numba"))
    np.testing.assert_allclose(cached, naive, atol=1e-3)
    np.testing.assert_allclose(numba, naive, atol=1e-3)


def test_a_teacher_with_several_speakers_is_told_which(
    speak: Callable[..., Finished], folder: Path, make_toy_teacher: Callable[..., Path]
) -> None:
    np.save("features.npy", np.load("features.npy")[:, :3])
    duet = make_toy_teacher("gaussian", speakers=("ada", "bob"))
    for name in ("ada", "bob"):
        speak("features.npy", "--out", name, "--speaker", name, "--backend", "cached", checkpoint=duet)
    assert Path("ada/features.wav").read_bytes() != Path("bob/features.wav").read_bytes()
