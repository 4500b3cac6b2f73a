"""Laws of the spectral loss."""

import math

import pytest
import torch
from torch import Tensor

from distill.losses.power import POWER_FLOOR, Edges, PowerConfig, SpectralDistance, power_spectrogram, spectral_distance

SIZES = [64, 256]
T = 2048
EDGES = Edges(low=125 / 8000, high=2000 / 8000)


@pytest.fixture
def speech() -> Tensor:
    """Harmonics under an envelope, and a little noise; (2, T)."""
    t = torch.arange(T) / 8000
    tone = sum(torch.sin(2 * math.pi * 140 * k * t) / k for k in range(1, 12))
    return torch.stack([0.1 * tone * torch.sin(2 * math.pi * 3 * t), 0.05 * tone]) + 0.001 * torch.randn(2, T)


def _total(distance: SpectralDistance) -> Tensor:
    return torch.stack([term for term in vars(distance).values() if term is not None]).sum()


def test_equal_signals_are_at_no_distance(speech: Tensor) -> None:
    for value in vars(spectral_distance(speech, speech.clone(), SIZES, EDGES)).values():
        assert value == 0


def test_every_term_falls_on_the_way_to_the_target(speech: Tensor) -> None:
    other = 0.05 * torch.randn_like(speech)
    path = [spectral_distance(torch.lerp(other, speech, w), speech, SIZES, EDGES) for w in (0.0, 0.4, 0.8, 0.95, 1.0)]
    for name in vars(path[0]):
        values = [getattr(step, name).item() for step in path]
        assert values == sorted(values, reverse=True) and values[0] > 10 * values[-2] / 9


def test_a_small_shift_is_nearer_than_another_signal_of_the_same_power(speech: Tensor) -> None:
    shifted = speech.roll(4, dims=1)
    noise = torch.randn_like(speech) * speech.square().mean(dim=1, keepdim=True).sqrt()
    near, far = spectral_distance(shifted, speech, SIZES), spectral_distance(noise, speech, SIZES)
    assert _total(near) < 0.3 * _total(far)
    assert near.mean_power < 0.1


def test_the_time_averaged_term_ignores_where_in_time_the_power_lies(speech: Tensor) -> None:
    moved = speech.roll(T // 2, dims=1)
    distance = spectral_distance(moved, speech, [64])
    assert distance.mean_power < 0.5 * distance.log_magnitude


@pytest.mark.parametrize("gain", [0.5, 0.9, 2.0])
def test_a_wrong_level_costs_its_logarithm(speech: Tensor, gain: float) -> None:
    distance = spectral_distance(gain * speech, speech, SIZES)
    assert distance.convergence.item() == pytest.approx(abs(gain - 1), rel=1e-3)
    assert distance.log_magnitude.item() == pytest.approx(abs(math.log(gain)), rel=1e-2)  # the floor takes some
    assert distance.mean_power.item() == pytest.approx(2 * abs(math.log(gain)), rel=1e-3)


@pytest.mark.parametrize("silent", ["x", "target", "both"])
def test_gradients_are_finite_on_digital_silence(speech: Tensor, silent: str) -> None:
    x = torch.zeros_like(speech) if silent != "target" else speech.clone()
    target = torch.zeros_like(speech) if silent != "x" else speech
    x.requires_grad_()
    loss = _total(spectral_distance(x, target, SIZES, EDGES))
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_gradients_are_finite_at_equality(speech: Tensor) -> None:
    x = speech.clone().requires_grad_()
    _total(spectral_distance(x, speech, SIZES)).backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_the_window_keeps_a_tone_between_two_bins_from_leaking() -> None:
    t = torch.arange(T, dtype=torch.float64)
    tone = torch.sin(2 * math.pi * 10.5 / 256 * t)[None]
    power = power_spectrogram(tone, 256)[0].mean(dim=0)
    assert power[60:].max() < 1e-6 * power.max()  # a rectangle leaks 3e-4 there


def test_a_constant_tone_has_the_same_power_in_every_frame() -> None:
    """Without a window the phase at the edges would show."""
    t = torch.arange(T, dtype=torch.float64)
    power = power_spectrogram(torch.sin(2 * math.pi * 10.3 / 256 * t)[None], 256)[0, :, 10]
    assert power.std() / power.mean() < 1e-3


# The high band, from 2 to 4 kHz


def _tone(hertz: float, amplitude: float = 0.1) -> Tensor:
    return amplitude * torch.sin(2 * math.pi * hertz / 8000 * torch.arange(T, dtype=torch.float64))[None]


def test_the_high_band_ignores_what_changes_below_its_edge_and_sees_what_changes_above(speech: Tensor) -> None:
    room = 1e-3 * torch.randn(1, T, dtype=torch.float64)

    def change(hertz: float) -> tuple[float, float]:
        distance = spectral_distance(room + _tone(3500) + _tone(hertz), room + _tone(3500), SIZES, EDGES)
        assert distance.high_band is not None
        return distance.high_band.item(), distance.log_magnitude.item()

    for below in (200, 700, 1500):
        high, anywhere = change(below)
        assert high < 0.05 < anywhere
    for above in (2200, 3000, 3900):
        assert change(above)[0] > 0.2


def test_the_high_band_hears_a_hiss_that_the_other_terms_hardly_notice(speech: Tensor) -> None:
    hiss = torch.fft.rfft(torch.randn_like(speech))
    hiss[:, : round(2 * EDGES.high * hiss.shape[1])] = 0
    noisy = speech + 0.01 * torch.fft.irfft(hiss, n=T)
    distance = spectral_distance(noisy, speech, SIZES, EDGES)
    assert distance.high_band is not None
    assert distance.high_band > 5 * distance.convergence and distance.high_band > 1.5 * distance.log_magnitude


@pytest.mark.parametrize("gain", [0.25, 0.5, 2.0, 4.0])
def test_in_the_high_band_too_loud_costs_as_much_as_too_quiet(gain: float) -> None:
    real, other = (torch.randn(2, 8 * T, dtype=torch.float64) for _ in range(2))
    distances = [spectral_distance(level * other, real, SIZES, EDGES).high_band for level in (gain, 1 / gain, 1.0)]
    assert None not in distances
    loud, quiet, right = (distance.item() for distance in distances if distance is not None)
    assert loud == pytest.approx(quiet, rel=0.05) and right < loud


def test_where_the_recording_has_no_high_band_the_distance_stays_small() -> None:
    distance = spectral_distance(torch.randn(1, T, dtype=torch.float64), _tone(200), SIZES, EDGES).high_band
    assert distance is not None and distance < 1 + math.log(1e5)


def test_without_an_edge_there_is_no_band(speech: Tensor) -> None:
    distance = spectral_distance(speech, speech, SIZES)
    assert distance.low_band is None and distance.high_band is None
    assert PowerConfig(high_weight=0.0, high_edge=1e6, low_weight=0.0).edges(8000) == (None, None)


def test_an_edge_that_the_windows_do_not_see_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"power.high_edge is 3900 Hz.*windows of 64 samples.*at 8000 Hz.*high_weight=0"
    ):
        PowerConfig(SIZES, high_edge=3900).edges(8000)
    assert PowerConfig(SIZES, high_edge=3000, low_edge=80).edges(8000) == (0.01, 0.375)


# The low band, below 125 Hz


def test_the_low_band_ignores_what_changes_above_its_edge_and_sees_what_changes_below() -> None:
    room = 1e-3 * torch.randn(1, T, dtype=torch.float64)

    def change(other: Tensor) -> float:
        distance = spectral_distance(room + _tone(3500) + other, room + _tone(3500), [256], EDGES).low_band
        assert distance is not None
        return distance.item()

    for above in (500, 1500, 3000):
        assert change(_tone(above)) < 0.1
    for below in (10, 30, 60):
        assert change(_tone(below)) > 1
    assert change(torch.full((1, T), 0.1, dtype=torch.float64)) > 1


def test_the_low_band_feels_an_offset_in_a_pause_that_the_other_terms_hardly_notice(speech: Tensor) -> None:
    paused = torch.cat([speech, 1e-4 * torch.randn_like(speech)], dim=1)
    distance = spectral_distance(paused + 0.004, paused, [256, 1024], EDGES)
    assert distance.low_band is not None
    assert distance.low_band > 5 * max(distance.convergence, distance.log_magnitude, distance.mean_power)


def test_by_default_the_low_band_does_not_drown_the_others(speech: Tensor) -> None:
    """Next to nothing lies there, so that its relative error is steep, and what the others teach would drown in it."""
    config = PowerConfig()
    x = (1.1 * speech + 0.001 * torch.randn_like(speech)).requires_grad_()
    distance = spectral_distance(x, speech, config.fft_sizes, config.edges(8000))
    assert distance.low_band is not None and distance.high_band is not None
    others = config.frame_weight * (distance.convergence + distance.log_magnitude)
    others = others + config.mean_weight * distance.mean_power + config.high_weight * distance.high_band
    pull, pull_of_others = (
        torch.autograd.grad(loss, x, retain_graph=True)[0].sum(dim=1)
        for loss in (config.low_weight * distance.low_band, others)
    )
    assert pull.norm() < pull_of_others.norm()


@pytest.mark.parametrize("size", [4, 64, 256, 4096])
def test_every_window_sees_an_offset(size: int) -> None:
    zero = torch.zeros(1, 4096)
    distance = spectral_distance(zero + 0.1, zero, [size], Edges(low=1e-6)).low_band
    assert distance is not None and distance > 1


# Precision and refusals


def test_white_noise_has_the_power_that_the_floor_is_stated_in() -> None:
    power = power_spectrogram(1.6e-5 * torch.randn(50, T, dtype=torch.float64) * 100, 1024)[..., 8:-8]
    assert power.mean().item() / 1e4 == pytest.approx(POWER_FLOOR, rel=0.05)


def test_every_resolution_sees_the_first_and_the_last_sample(speech: Tensor) -> None:
    for at in (1, T - 2):
        changed = speech.clone()
        changed[:, at] += 0.5
        assert spectral_distance(changed, speech, [64]).convergence > 0


def test_autocast_changes_nothing(speech: Tensor) -> None:
    other = speech.roll(3, dims=1)
    exact = spectral_distance(other, speech, SIZES, EDGES)
    with torch.autocast("cpu", torch.bfloat16):
        under = spectral_distance(other, speech, SIZES, EDGES)
    for name, value in vars(exact).items():
        assert getattr(under, name).dtype == torch.float32
        torch.testing.assert_close(getattr(under, name), value, rtol=0, atol=0)


def test_a_signal_shorter_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="windows of 256 samples, but the signal has 100"):
        spectral_distance(torch.zeros(1, 100), torch.zeros(1, 100), SIZES)


@pytest.mark.parametrize(
    "changes",
    [
        {"fft_sizes": []},
        {"fft_sizes": [2]},
        {"frame_weight": -1.0},
        {"mean_weight": math.inf},
        {"high_weight": -1.0},
        {"mel_weight": math.nan},
        {"high_edge": 0.0},
        {"low_weight": -1.0},
        {"low_edge": math.inf},
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=f"power.{next(iter(changes))} is"):
        PowerConfig(**changes)
