"""The correction brings a waveform nearer to a mel, keeps its phases, and does so bit by bit as well as at once."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from data.mel import MelConfig, log_mel, mel_filters
from distill.correction import LIMIT, MOMENTUM, ROUNDS, STEP, CorrectionStream, MelCorrection

MEL = MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=20, fmax=4000.0)
HOP = MEL.hop_length
CONFIGS = {
    "quarters": MEL,
    "no whole hops": MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=100, n_mels=20, fmax=4000.0),
    "narrow window": MelConfig(sample_rate=8000, n_fft=256, win_length=200, hop_length=64, n_mels=20, fmax=3000.0),
    "no overlap": MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=256, n_mels=20, fmax=4000.0),
}


def noise(*shape: int, seed: int = 0, level: float = 0.1) -> Tensor:
    return level * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coloured(frames: int, config: MelConfig = MEL, seed: int = 1) -> Tensor:
    """The mel (1, M, L) of noise that is louder and duller now and then."""
    t = torch.arange(frames * config.hop_length)
    white = noise(1, len(t) + 1, seed=seed)
    return log_mel((white[:, 1:] + 0.9 * white[:, :-1]) * (0.6 + 0.5 * torch.sin(t / 700)), config)


def distance(wav: Tensor, mel: Tensor, config: MelConfig = MEL) -> float:
    return float((log_mel(wav, config) - mel).abs().mean())


def one_round(wav: NDArray[np.float64], mel: NDArray[np.float64], config: MelConfig) -> NDArray[np.float64]:
    """A frame at a time, in float64, from the equations."""
    n_fft, hop, pad = config.n_fft, config.hop_length, config.padding
    filters = mel_filters(config).numpy()  # (F, M)
    window = np.zeros(n_fft)
    begin = (n_fft - config.win_length) // 2
    window[begin : begin + config.win_length] = np.hanning(config.win_length + 1)[:-1]
    heard = np.flatnonzero(filters.sum(axis=1))
    padded = np.pad(wav, pad, mode="reflect")
    added, seen = np.zeros_like(padded), np.zeros_like(padded)
    for frame, asked in enumerate(mel.T):
        span = slice(frame * hop, frame * hop + n_fft)
        spectrum = np.fft.rfft(padded[span] * window)
        own = np.log(np.maximum(np.abs(spectrum) @ filters, config.floor))
        step = np.clip(STEP * (asked - own), -LIMIT, LIMIT)
        gains = np.empty(len(filters))
        for k in range(len(filters)):
            nearest = heard[np.abs(heard - k).argmin()]
            weights = filters[nearest]
            gains[k] = np.exp((weights * step).sum() / weights.sum()) if abs(nearest - k) <= 1 else 1.0
        added[span] += window * np.fft.irfft(spectrum * (gains - 1))
        seen[span] += window**2
    return (padded + added / np.maximum(seen, 1e-2))[pad : pad + len(wav)]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_round_is_its_equations(config: MelConfig) -> None:
    wav, mel = noise(1, 30 * config.hop_length), coloured(30, config)
    expected = one_round(wav[0].double().numpy(), mel[0].double().numpy(), config)
    np.testing.assert_allclose(
        MelCorrection(config, 1)(wav, mel)[0].numpy(), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_more_rounds_are_rounds_one_after_another_whose_changes_go_on() -> None:
    wav, mel, one = noise(1, 40 * HOP), coloured(40), MelCorrection(MEL, 1)
    first = one(wav, mel)
    second = one(first, mel)
    third = one(second + MOMENTUM * (second - first), mel)
    torch.testing.assert_close(MelCorrection(MEL, 3)(wav, mel), third, rtol=0, atol=1e-6)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_what_has_its_mel_already_stays(config: MelConfig) -> None:
    wav = noise(2, 20 * config.hop_length)
    torch.testing.assert_close(MelCorrection(config)(wav, log_mel(wav, config)), wav, rtol=0, atol=1e-5)


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, ROUNDS])
def test_a_wrong_level_swings_into_the_right_one(rounds: int) -> None:
    """All frames and bands want the same gain, so that the rounds are those of one number."""
    wav, level = noise(1, 20 * HOP), 0.7
    heard = said = 1.0
    for n in range(rounds):
        before, said = said, heard * np.exp(STEP * (level - np.log(heard)))
        heard = said + MOMENTUM * (said - before) * (n > 0)
    corrected = MelCorrection(MEL, rounds)(wav, log_mel(wav, MEL) + level)
    torch.testing.assert_close(corrected, wav * said, rtol=1e-4, atol=1e-6)
    assert rounds < ROUNDS or abs(np.log(said) - level) < 0.02 * level


def test_every_round_comes_nearer() -> None:
    wav, mel = noise(1, 80 * HOP), coloured(80)
    distances = [distance(MelCorrection(MEL, rounds)(wav, mel), mel) for rounds in range(ROUNDS + 1)]
    assert all(after < before for before, after in itertools.pairwise(distances))
    assert distances[-1] < distances[0] / 4


def test_a_tone_stays_where_it_is_and_gets_its_level() -> None:
    """Asked for by the mel of another phase."""
    t = torch.arange(60 * HOP)
    swell, middle = 0.1 + 0.05 * torch.sin(t / 900), slice(8 * HOP, -8 * HOP)
    tone = torch.sin(0.3 * t)
    said = MelCorrection(MEL)(0.04 * tone[None], log_mel(swell * torch.cos(0.3 * t), MEL)[None])[0]
    assert float((said - swell * tone)[middle].norm()) < 0.03 * float((swell * tone)[middle].norm())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("rounds", [0, 1, ROUNDS])
@given(pieces=st.lists(st.integers(0, 700), min_size=1, max_size=6), frames=st.integers(1, 40), ahead=st.integers(0, 9))
@settings(max_examples=10, deadline=None)
def test_any_pieces_are_the_whole(config: MelConfig, rounds: int, pieces: list[int], frames: int, ahead: int) -> None:
    """Whether the frames come just in time or before."""
    wav, mel = noise(2, frames * config.hop_length), coloured(frames, config).expand(2, -1, -1)
    correction = MelCorrection(config, rounds)
    stream, said, begin, given_ = CorrectionStream(correction), [], 0, 0
    for piece in [*pieces, frames * config.hop_length]:
        stop = min(begin + piece, wav.shape[1])
        known = min(frames, -(-stop // config.hop_length) + ahead)
        said.append(stream.push(wav[:, begin:stop], mel[:, :, given_:known] if known > given_ else None))
        begin, given_ = stop, max(known, given_)
        assert max(0, stop - correction.look_ahead) <= sum(each.shape[1] for each in said) <= stop
    said.append(stream.finish())
    whole = correction(wav, mel)
    assert whole.shape == wav.shape
    torch.testing.assert_close(torch.cat(said, dim=1), whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("rounds", [1, 2, ROUNDS])
def test_the_look_ahead_is_as_long_as_it_says(config: MelConfig, rounds: int) -> None:
    correction = MelCorrection(config, rounds)
    ahead, hop = correction.look_ahead, config.hop_length
    frames = 2 * ahead // hop + 20
    wav = noise(1, frames * hop)
    mel = coloured(frames, config)
    before = correction(wav, mel)
    first = []
    for at in range(ahead + 5 * hop, ahead + 6 * hop):
        changed = wav.clone()
        changed[:, at] += 3.0
        first.append(at - int((correction(changed, mel) != before)[0].nonzero()[0]))
    assert max(first) <= ahead
    if rounds == 1 and config.win_length == config.n_fft:
        assert max(first) > ahead - 8  # at its ends a window is nearly 0, and that of more rounds is nothing


def test_silence_stays_silence_and_nothing_is_made_of_nothing() -> None:
    silence = torch.zeros(1, 10 * HOP)
    assert torch.equal(MelCorrection(MEL)(silence, coloured(10)), silence)
    floor = torch.full((1, 20, 10), float(np.log(MEL.floor)))
    quiet = MelCorrection(MEL)(noise(1, 10 * HOP), floor)
    assert 0 < float(quiet.abs().max()) < 1e-4


def test_what_no_band_hears_stays() -> None:
    """Bands of a mel that ends below half the sampling rate say nothing of what lies above them."""
    config, wav = CONFIGS["narrow window"], noise(1, 60 * HOP)
    change = torch.fft.rfft(MelCorrection(config)(wav, coloured(60, config)) - wav).abs()[0]
    frequency = torch.fft.rfftfreq(wav.shape[1], 1 / config.sample_rate)
    near = config.fmax + 8 * config.sample_rate / config.n_fft
    below, above = change[frequency < config.fmax], change[frequency > near]
    assert float(above.square().mean()) < 1e-3 * float(below.square().mean())


def test_one_round_changes_no_more_than_its_limit() -> None:
    wav = noise(1, 20 * HOP)
    said = MelCorrection(MEL, 1)(wav, log_mel(wav, MEL) + 9.0)
    torch.testing.assert_close(said, wav * np.exp(LIMIT), rtol=1e-4, atol=1e-6)


def test_it_can_be_learnt_through() -> None:
    """A step against its gradient brings the corrected waveform nearer to the one behind the mel."""
    wav = noise(1, 20 * HOP).requires_grad_()
    mel, correction = coloured(20), MelCorrection(MEL, 2)
    loss = (log_mel(correction(wav, mel), MEL) - mel).abs().mean()
    loss.backward()
    assert wav.grad is not None and bool(wav.grad.isfinite().all()) and float(wav.grad.norm()) > 0
    with torch.no_grad():
        after = (log_mel(correction(wav - 1e-3 * wav.grad / wav.grad.norm(), mel), MEL) - mel).abs().mean()
    assert float(after) < float(loss.detach())


def test_half_precision_around_it_does_not_matter() -> None:
    wav, mel, correction = noise(1, 20 * HOP), coloured(20), MelCorrection(MEL)
    with torch.autocast("cpu", torch.bfloat16):
        inside = correction(wav, mel)
    assert torch.equal(inside, correction(wav, mel))


def test_nothing_of_it_is_saved() -> None:
    assert not MelCorrection(MEL).state_dict()


def test_fewer_rounds_than_none_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds is -1"):
        MelCorrection(MEL, -1)
