"""The log-mel against librosa, its laws of length, alignment and gain, and what is refused."""

import math
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.mel import GAIN_LIMIT, LogMel, MelConfig, MelError, check_mel, gained_mel, load_mel, log_mel

CONFIGS = {
    "22k": MelConfig(),
    "24k": MelConfig(24000, 1024, 1024, 256, 100, 0.0, 12000.0),
    "16k": MelConfig(16000, 1024, 800, 200, 80, 0.0, 8000.0),
}
SMALL = MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=20, fmax=4000.0)


def librosa_log_mel(wav: npt.NDArray[np.float64], config: MelConfig) -> npt.NDArray[np.float64]:
    padded = np.pad(wav, config.padding, mode="reflect")
    spectrum = librosa.stft(
        padded,
        n_fft=config.n_fft,
        hop_length=config.hop_length,
        win_length=config.win_length,
        center=False,
        dtype=np.complex128,
    )
    filters = librosa.filters.mel(
        sr=config.sample_rate,
        n_fft=config.n_fft,
        n_mels=config.n_mels,
        fmin=config.fmin,
        fmax=config.fmax,
        dtype=np.float64,
    )
    return np.log(np.maximum(filters @ np.abs(spectrum), config.floor))


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("signal", ["noise", "chirp", "tone at a filter's foot", "silence"])
def test_it_equals_librosa(name: str, signal: str) -> None:
    config = CONFIGS[name]
    n = np.arange(5000)
    wav = {
        "noise": 0.1 * np.random.default_rng(0).standard_normal(len(n)),
        "chirp": 0.5 * np.sin(2 * np.pi * n**2 / 1e5),
        # exactly on a bin: then the outermost weights of the filters, the least exact ones, are all there is
        "tone at a filter's foot": 0.5 * np.sin(2 * np.pi * n * 200 / config.n_fft),
        "silence": np.zeros(len(n)),
    }[signal]
    ours = log_mel(torch.from_numpy(wav), config).numpy()
    assert np.abs(ours - librosa_log_mel(wav, config)).max() < 1e-4


@given(samples=st.integers(64, 2000))
@settings(max_examples=60, deadline=None)
def test_there_are_as_many_frames_as_whole_hops(samples: int) -> None:
    mel = log_mel(torch.linspace(-0.1, 0.1, samples), SMALL)
    assert mel.shape == (20, samples // 64)
    assert mel.isfinite().all()


@given(samples=st.integers(SMALL.padding + 1, 2000))
@settings(max_examples=20, deadline=None)
def test_a_waveform_longer_than_its_padding_is_reflected_as_in_librosa(samples: int) -> None:
    wav = np.random.default_rng(samples).uniform(-0.1, 0.1, samples)
    assert np.abs(log_mel(torch.from_numpy(wav), SMALL).numpy() - librosa_log_mel(wav, SMALL)).max() < 1e-4


def test_less_than_one_frame_is_refused() -> None:
    with pytest.raises(MelError, match="63 samples is shorter than one frame of 64"):
        log_mel(torch.zeros(63), SMALL)


@pytest.mark.parametrize("frame", [2, 7, 17])
def test_frame_l_is_centred_at_sample_l_plus_half_times_hop(frame: int) -> None:
    wav = torch.zeros(20 * 64)
    wav[frame * 64 + 32] = 1.0
    assert (log_mel(wav, SMALL).argmax(dim=-1) == frame).all()


def test_any_leading_shape_is_a_batch() -> None:
    wav = 0.1 * torch.randn(2, 3, 640, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mel = log_mel(wav, SMALL)
    assert mel.shape == (2, 3, 20, 10)
    assert torch.allclose(mel[1, 2], log_mel(wav[1, 2], SMALL), atol=1e-12)
    assert torch.equal(LogMel(SMALL)(wav), mel)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    mel = log_mel(torch.linspace(-0.5, 0.5, 640).to(dtype), SMALL)
    assert mel.dtype == dtype
    assert mel.isfinite().all()


def test_autocast_does_not_lower_its_precision() -> None:
    wav = torch.linspace(-0.5, 0.5, 640).sin()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel = log_mel(wav, SMALL)
    assert torch.equal(mel, log_mel(wav, SMALL))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_gives_the_same_mel() -> None:
    wav = 0.1 * torch.randn(2, 22050, generator=torch.Generator().manual_seed(0))
    mel = log_mel(wav.cuda(), MelConfig())
    assert mel.device.type == "cuda"
    assert torch.allclose(mel.cpu(), log_mel(wav, MelConfig()), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_on_digital_silence(dtype: torch.dtype) -> None:
    wav = torch.zeros(1280, dtype=dtype)
    wav[:256] = torch.linspace(-0.5, 0.5, 256)
    wav.requires_grad_()
    log_mel(wav, SMALL).sum().backward()
    assert wav.grad is not None
    assert wav.grad.isfinite().all()
    assert wav.grad[:256].abs().max() > 0


def test_gradients_are_those_of_finite_differences() -> None:
    wav = 0.1 * torch.randn(192, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: log_mel(x, SMALL), wav.requires_grad_(), fast_mode=True)


@given(gain_db=st.floats(-12.04, 12.04), level_db=st.floats(-120, 0), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_a_stored_mel_gives_the_mel_of_the_gained_waveform(gain_db: float, level_db: float, seed: int) -> None:
    gain, level = 10 ** (gain_db / 20), 10 ** (level_db / 20)
    rng = np.random.default_rng(seed)
    envelope = 10 ** rng.uniform(-3, 0, 20).repeat(64)  # some frames are under the floor, some over it
    wav = torch.from_numpy(level * envelope * rng.uniform(-1, 1, 1280))
    stored = log_mel(wav, replace(SMALL, floor=SMALL.floor / GAIN_LIMIT)).float().numpy()
    assert np.abs(gained_mel(stored, gain, SMALL) - log_mel(gain * wav, SMALL).numpy()).max() < 1e-5


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"sample_rate": 0}, "sample_rate must be positive, not 0"),
        ({"hop_length": 0}, "hop_length must be from 1 to n_fft = 1024, not 0"),
        ({"hop_length": 255}, "n_fft - hop_length must be even"),
        ({"win_length": 2048}, "win_length must be from 1 to n_fft = 1024, not 2048"),
        ({"n_mels": 0}, "n_mels must be positive, not 0"),
        ({"fmax": 12000.0}, "0 <= fmin < fmax <= 11025.0"),
        ({"fmin": 8000.0}, "0 <= fmin < fmax"),
        ({"floor": 0.0}, "floor must be positive, not 0.0"),
    ],
)
def test_an_impossible_config_is_refused(change: dict[str, float], rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        MelConfig(**change)


def a_mel(*shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-11, 2, shape).astype(np.float32)


def test_a_mel_of_this_config_passes() -> None:
    check_mel(a_mel(80, 9), MelConfig())
    check_mel(torch.from_numpy(a_mel(2, 80, 9)), MelConfig())
    for wav in (torch.zeros(2048), torch.ones(2048), torch.ones(2048).index_fill(0, torch.arange(0, 2048, 2), -1.0)):
        check_mel(log_mel(wav, MelConfig()), MelConfig())


REFUSED = {
    "one axis": (a_mel(80), "shape"),
    "four axes": (a_mel(1, 1, 80, 9), "shape"),
    "wrong bands": (a_mel(100, 9), "80 bands, not 100"),
    "transposed": (a_mel(9, 80), "looks transposed; give mel.T"),
    "zero frames": (a_mel(80, 0), "zero frames"),
    "no utterance": (a_mel(0, 80, 9), "batch of zero"),
    "integers": (a_mel(80, 9).astype(np.int64), "floating-point numbers, not (torch.)?int64"),
    "NaN": (np.where(np.arange(9) == 4, np.nan, a_mel(80, 9)), "NaN or infinity"),
    "infinity": (np.where(np.arange(9) == 4, -np.inf, a_mel(80, 9)), "NaN or infinity"),
    "decibels": (a_mel(80, 9) * 20 / math.log(10), "decibels, or of another MelConfig"),
    "decibels above zero": (np.abs(a_mel(80, 9)) * 4, "decibels, or of another MelConfig"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_mel_is_refused_by_name(case: str, tmp_path: Path) -> None:
    mel, message = REFUSED[case]
    with pytest.raises(MelError, match=message):
        check_mel(mel, MelConfig())
    with pytest.raises(MelError, match=message):
        check_mel(torch.from_numpy(mel), MelConfig())
    np.save(tmp_path / "mel.npy", mel)
    with pytest.raises(MelError, match=r"mel\.npy: "):
        load_mel(tmp_path / "mel.npy", MelConfig())


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_mel_file_is_read_as_float32(dtype: type, tmp_path: Path) -> None:
    np.save(tmp_path / "mel.npy", a_mel(80, 9).astype(dtype))
    mel = load_mel(tmp_path / "mel.npy", MelConfig())
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, a_mel(80, 9), atol=0.01)


def test_a_batch_of_one_in_a_file_is_that_one(tmp_path: Path) -> None:
    np.save(tmp_path / "mel.npy", a_mel(1, 80, 9))
    assert load_mel(tmp_path / "mel.npy", MelConfig()).shape == (80, 9)


def _npy(header: str) -> bytes:
    """A file of this header and no data."""
    return b"\x93NUMPY\x01\x00" + len(header + "\n").to_bytes(2, "little") + header.encode() + b"\n"


@pytest.mark.parametrize(
    "content",
    {
        "renamed and truncated .npz": b"PK\x03\x04" + bytes(40),
        "more than fits into memory": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (80, 10000000000000), }"),
        "an open brace": _npy("{'descr': '<f4', 'fortran_order': False, 'shape': (80, 9),"),
        "no type": _npy("{'descr': '<,4', 'fortran_order': False, 'shape': (80, 9), }"),
        "a key that is no string": _npy("{'descr': '<f4', 'fortran_order': False, B'shape': (80, 9), }"),
    }.items(),
    ids=lambda case: case[0],
)
def test_whatever_a_damaged_file_holds_is_refused_by_its_name(content: tuple[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "mel.npy").write_bytes(content[1])
    with pytest.raises(MelError, match=r"mel\.npy: .*; save it with np\.save"):
        load_mel(tmp_path / "mel.npy", MelConfig())


def test_files_that_are_no_plain_arrays_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{"mel": 1}, None]), allow_pickle=True)
    (tmp_path / "text.npy").write_text("mel", encoding="utf-8")
    (tmp_path / "empty.npy").touch()
    np.save(tmp_path / "whole.npy", a_mel(80, 9))
    (tmp_path / "truncated.npy").write_bytes((tmp_path / "whole.npy").read_bytes()[:-5])
    np.savez(tmp_path / "archive.npz", mel=a_mel(80, 9))
    for name in ("objects.npy", "text.npy", "empty.npy", "truncated.npy", "archive.npz"):
        with pytest.raises(MelError, match=rf"{name}: .*; save it with np\.save"):
            load_mel(tmp_path / name, MelConfig())
    with pytest.raises(MelError, match="there is no such file"):
        load_mel(tmp_path / "missing.npy", MelConfig())


def test_a_mel_that_the_system_refuses_to_read_is_refused_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "mel.npy", a_mel(80, 9))

    def forbid(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(np.lib.format, "open_memmap", forbid)
    with pytest.raises(MelError, match=r"mel\.npy: cannot be read \(Permission denied\); mend that"):
        load_mel(tmp_path / "mel.npy", MelConfig())
