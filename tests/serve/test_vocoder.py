"""The Vocoder: mel in, waveform out, NumPy or torch, at the level of the sound that the mel was taken from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from data.audio import resample
from data.mel import MelConfig, MelError, log_mel
from distill.correction import ROUNDS, MelCorrection
from serve import Vocoder
from wavenet.checkpoint import CheckpointError

Speech = Callable[..., NDArray[np.float32]]
FRAMES = 9


@pytest.fixture(scope="module")
def vocoder(toy_student: Path) -> Vocoder:
    return Vocoder.from_pretrained(toy_student, device="cpu")


@pytest.fixture(scope="module")
def mel(toy_mel: MelConfig, toy_speech: Speech) -> NDArray[np.float32]:
    """(M, L)"""
    return log_mel(torch.from_numpy(toy_speech()), toy_mel).numpy()[:, 40 : 40 + FRAMES].copy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_numpy_mel_becomes_a_float32_waveform_of_one_hop_a_frame(
    vocoder: Vocoder, mel: NDArray[np.float32], toy_mel: MelConfig, dtype: type
) -> None:
    wav = vocoder(mel.astype(dtype))
    assert isinstance(wav, np.ndarray)
    assert wav.dtype == np.float32
    assert wav.shape == (FRAMES * toy_mel.hop_length,)
    assert np.isfinite(wav).all()
    assert wav.std() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_torch_mel_becomes_a_tensor(vocoder: Vocoder, mel: NDArray[np.float32], dtype: torch.dtype) -> None:
    wav = vocoder(torch.from_numpy(mel).to(dtype))
    assert isinstance(wav, torch.Tensor)
    assert wav.dtype == torch.float32
    if dtype != torch.bfloat16:
        np.testing.assert_allclose(wav.numpy(), vocoder(mel), atol=1e-6)


def test_a_mel_that_takes_part_in_a_graph_is_read_without_a_gradient(
    vocoder: Vocoder, mel: NDArray[np.float32]
) -> None:
    assert not vocoder(torch.from_numpy(mel).requires_grad_()).requires_grad


def read_only_copy(array: NDArray[np.float32]) -> NDArray[np.float32]:
    """As a memory map is."""
    copied = array.copy()
    copied.flags.writeable = False
    return copied


@pytest.mark.parametrize(
    "laid_out",
    [np.asfortranarray, lambda mel: mel[:, ::-1].copy()[:, ::-1], lambda mel: mel.astype(">f4"), read_only_copy],
    ids=["fortran", "backwards", "big-endian", "read-only"],
)
def test_it_does_not_matter_how_the_mel_lies_in_memory(
    vocoder: Vocoder, mel: NDArray[np.float32], laid_out: Callable[..., NDArray[np.float32]]
) -> None:
    np.testing.assert_array_equal(vocoder(laid_out(mel)), vocoder(mel))


def test_the_mel_that_is_given_stays_as_it_is(vocoder: Vocoder, mel: NDArray[np.float32]) -> None:
    before = mel.copy()
    vocoder(mel)
    vocoder(torch.from_numpy(mel))
    np.testing.assert_array_equal(mel, before)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_utterance_b_of_a_batch_is_what_seed_plus_b_says_alone(
    vocoder: Vocoder, mel: NDArray[np.float32], toy_mel: MelConfig, temperature: float
) -> None:
    batch = np.stack([mel, mel - 0.5, mel])  # the first and the third differ by their noise alone
    wavs = vocoder(batch, seed=5, temperature=temperature)
    assert wavs.shape == (3, FRAMES * toy_mel.hop_length)
    for b, alone in enumerate(batch):
        np.testing.assert_allclose(wavs[b], vocoder(alone, seed=5 + b, temperature=temperature), atol=1e-6)
    assert np.abs(wavs[0] - wavs[2]).max() > 1e-3


def test_a_batch_of_one_keeps_its_dimension(vocoder: Vocoder, mel: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(vocoder(mel[None]), vocoder(mel)[None])


def test_one_frame_is_enough(vocoder: Vocoder, mel: NDArray[np.float32], toy_mel: MelConfig) -> None:
    assert vocoder(mel[:, :1]).shape == (toy_mel.hop_length,)


def test_a_seed_is_repeatable_and_another_one_says_it_otherwise(vocoder: Vocoder, mel: NDArray[np.float32]) -> None:
    first = vocoder(mel, seed=3)
    torch.manual_seed(99)  # the global generator has no say
    np.testing.assert_array_equal(vocoder(mel, seed=3), first)
    assert np.abs(vocoder(mel, seed=4) - first).max() > 1e-3


def test_the_largest_seed_is_a_seed(vocoder: Vocoder, mel: NDArray[np.float32]) -> None:
    assert np.isfinite(vocoder(mel, seed=2**63)).all()


@pytest.mark.parametrize("rounds", [0, ROUNDS])
def test_without_temperature_the_noise_does_not_matter(
    toy_student: Path, mel: NDArray[np.float32], rounds: int
) -> None:
    vocoder = Vocoder.from_pretrained(toy_student, device="cpu", rounds=rounds)
    calm = vocoder(mel, seed=1, temperature=0.0)
    np.testing.assert_array_equal(calm, vocoder(mel, seed=2, temperature=0.0))
    if not rounds:  # a correction gives it the level of the mel again
        assert calm.std() < vocoder(mel, seed=1).std()


def test_a_sound_becomes_its_mel_and_then_speech(vocoder: Vocoder, toy_mel: MelConfig, toy_speech: Speech) -> None:
    wav = toy_speech(0.5)
    spoken = vocoder((wav, toy_mel.sample_rate), seed=2)
    assert isinstance(spoken, np.ndarray)
    np.testing.assert_allclose(spoken, vocoder(log_mel(torch.from_numpy(wav), toy_mel).numpy(), seed=2), atol=1e-6)


@pytest.mark.parametrize("rate", [16_000, 11_025])
def test_a_sound_at_another_rate_is_resampled(
    vocoder: Vocoder, toy_mel: MelConfig, toy_speech: Speech, rate: int
) -> None:
    wav = toy_speech(0.5, rate=rate)
    mel = log_mel(torch.from_numpy(resample(wav, rate, toy_mel.sample_rate)), toy_mel)
    np.testing.assert_allclose(vocoder((wav, rate)), vocoder(mel).numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "laid_out", [lambda wav: wav.astype(float), read_only_copy, np.flip], ids=["float64", "read-only", "backwards"]
)
def test_a_sound_may_be_of_any_floating_type_and_layout(
    vocoder: Vocoder, toy_mel: MelConfig, toy_speech: Speech, laid_out: Callable[..., NDArray[np.float32]]
) -> None:
    given = laid_out(toy_speech(0.2))
    plain = np.array(given, np.float32)
    np.testing.assert_array_equal(vocoder((given, toy_mel.sample_rate)), vocoder((plain, toy_mel.sample_rate)))


def test_the_gain_of_the_corpus_is_undone(make_toy_student: Callable[..., Path], mel: NDArray[np.float32]) -> None:
    """The same network at twice the level inside speaks at half of it outside."""
    one, two = (Vocoder.from_pretrained(make_toy_student(gain=gain), device="cpu", rounds=0) for gain in (1.0, 2.0))
    np.testing.assert_allclose(one(mel), 2 * two(mel), atol=1e-6)


def test_what_was_said_is_brought_nearer_to_its_mel(
    toy_student: Path, toy_mel: MelConfig, mel: NDArray[np.float32]
) -> None:
    """At the level of the sound file, and by as many rounds as were asked for."""
    distances = []
    for rounds in (0, 1, ROUNDS):
        said = Vocoder.from_pretrained(toy_student, device="cpu", rounds=rounds)(mel)
        distances.append(np.abs(log_mel(torch.from_numpy(said), toy_mel).numpy() - mel).mean())
    assert distances[2] < distances[1] / 2 < distances[0] / 4
    alone = Vocoder.from_pretrained(toy_student, device="cpu", rounds=0)
    corrected = MelCorrection(toy_mel, 1)(torch.from_numpy(alone(mel))[None], torch.from_numpy(mel)[None])[0]
    np.testing.assert_array_equal(Vocoder.from_pretrained(toy_student, device="cpu", rounds=1)(mel), corrected.numpy())


def test_a_speaker_is_chosen_by_name(make_toy_student: Callable[..., Path], mel: NDArray[np.float32]) -> None:
    vocoder = Vocoder.from_pretrained(make_toy_student(speakers=("ada", "bob")), device="cpu")
    assert vocoder.speakers == ["ada", "bob"]
    ada, bob = (vocoder(mel, speaker=name) for name in vocoder.speakers)
    assert np.abs(ada - bob).max() > 1e-3
    both = vocoder(np.stack([mel, mel]), speaker="bob")
    np.testing.assert_allclose(both[0], bob, atol=1e-6)


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
def test_bfloat16_is_near_float32(make_toy_student: Callable[..., Path], mel: NDArray[np.float32], kind: str) -> None:
    folder = make_toy_student(kind)
    exact, fast = (Vocoder.from_pretrained(folder, device="cpu", dtype=dtype)(mel) for dtype in ("float32", "bfloat16"))
    assert fast.dtype == np.float32
    assert 0 < np.abs(fast - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda mel: mel[:-1], "needs 20 bands, not 19"),
        (lambda mel: mel.T, "transposed"),
        (lambda mel: mel[:, :0], "zero frames"),
        (lambda mel: mel[0], r"shape \(20, L\) or \(B, 20, L\), not"),
        (lambda mel: mel * 20 / np.log(10), "decibels"),
        (lambda mel: np.where(mel == mel.max(), np.nan, mel), "NaN"),
        (lambda mel: np.where(mel == mel.max(), -np.inf, mel), "infinity"),
        (lambda mel: mel.astype(np.int64), "floating-point"),
        (lambda mel: (np.zeros((800, 2), np.float32), 8000), "one channel"),
        (lambda mel: (np.full(800, np.nan, np.float32), 8000), "NaN"),
        (lambda mel: (np.full(800, 3000, np.int16), 8000), r"reaches 3000.*1/32768"),
        (lambda mel: (np.full(800, -3e4, np.float32), 8000), r"scale it into \[-1, 1\]"),
        (lambda mel: (np.zeros(63, np.float32), 8000), "shorter than one frame"),
        (lambda mel: (np.zeros(0, np.float32), 8000), r"shape \(T,\), not \(0,\)"),
        (lambda mel: (np.zeros(800, np.float32), 0), "rate is 0"),
        (lambda mel: (np.zeros(800, np.float32), -8000), "rate is -8000"),
        (lambda mel: (np.zeros(800, np.float32), 8000.5), "rate is 8000.5"),
    ],
)
def test_a_mel_or_a_sound_that_cannot_be_spoken_is_refused(
    vocoder: Vocoder, mel: NDArray[np.float32], spoil: Callable[..., NDArray[np.float32]], rule: str
) -> None:
    with pytest.raises(MelError, match=rule):
        vocoder(spoil(mel))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"seed": -1}, "-1"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"speaker": "eve"}, "'eve' is unknown: this model has one speaker"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(
    vocoder: Vocoder, mel: NDArray[np.float32], options: dict[str, object], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        vocoder(mel, **options)


def test_several_speakers_must_be_chosen_from(make_toy_student: Callable[..., Path], mel: NDArray[np.float32]) -> None:
    vocoder = Vocoder.from_pretrained(make_toy_student(speakers=("ada", "bob")), device="cpu")
    for chosen in (None, "eve"):
        with pytest.raises(ValueError, match="choose one of ada, bob"):
            vocoder(mel, speaker=chosen)


def test_there_are_two_dtypes(toy_student: Path) -> None:
    with pytest.raises(ValueError, match=r"dtype is 'float16': choose one of float32, bfloat16"):
        Vocoder.from_pretrained(toy_student, device="cpu", dtype="float16")


@pytest.mark.parametrize("device", ["toaster", "cuda" if not torch.cuda.is_available() else "cuda:99"])
def test_a_device_that_is_not_there_is_refused(toy_student: Path, device: str) -> None:
    with pytest.raises(ValueError, match=f"device is '{device}'"):
        Vocoder.from_pretrained(toy_student, device=device)


def test_the_device_may_be_left_to_the_vocoder(toy_student: Path, mel: NDArray[np.float32]) -> None:
    vocoder = Vocoder.from_pretrained(str(toy_student))
    assert vocoder.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert np.isfinite(vocoder(mel)).all()


@pytest.fixture
def copy(toy_student: Path, tmp_path: Path) -> Path:
    """A checkpoint to be damaged."""
    return Path(shutil.copytree(toy_student, tmp_path / "copy"))


def test_a_teacher_is_no_student(toy_teacher: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a teacher, and a student is needed; `wavenet distill` makes one"):
        Vocoder.from_pretrained(toy_teacher)


def test_a_checkpoint_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a directory"):
        Vocoder.from_pretrained(tmp_path / "nowhere")


def test_truncated_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        Vocoder.from_pretrained(copy)


def test_tampered_weights_are_refused(copy: Path) -> None:
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(CheckpointError, match="does not match its sha256"):
        Vocoder.from_pretrained(copy)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"format": 2}, "format 2, and this version reads up to 1.*upgrade"),
        ({"gain": 0}, "gain is 0"),
        ({"mel.n_mels": 0}, "n_mels must be positive"),
        ({"mel.n_mels": 21}, "reads 20 bands every 64 samples, but its mel has 21"),
        ({"mel.hop_length": 32}, "reads 20 bands every 64 samples, but its mel has 20 every 32"),
        ({"mel.colour": 3}, "describes no MelConfig"),
        ({"mel.n_mels": "20"}, "describes no MelConfig"),
        ({"model.residual": 20}, "weights do not fit"),
        ({"model.residual": 16.5}, "describes no StudentConfig.*residual"),
        ({"model.residual": "16"}, "describes no StudentConfig.*residual"),
        ({"model.flows": 4}, "describes no StudentConfig.*flows"),
        ({"model.flows": ["4"]}, "describes no StudentConfig.*flows"),
        ({"model.base": "cauchy"}, "describes no StudentConfig.*cauchy"),
        ({"model.base": 3}, "describes no StudentConfig.*3"),
        ({"model.depth": 4}, "describes no StudentConfig.*depth"),
        ({"speakers": ["ada", "bob"]}, "2 speakers.*0"),
    ],
)
def test_a_description_that_describes_no_student_is_refused(copy: Path, change: dict[str, object], rule: str) -> None:
    description = json.loads((copy / "config.json").read_text())
    for path, value in change.items():
        *parents, name = path.split(".")
        target = description
        for parent in parents:
            target = target[parent]
        target[name] = value
    (copy / "config.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=rule):
        Vocoder.from_pretrained(copy)
