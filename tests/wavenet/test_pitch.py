"""The running phase of F0, and the head that hears F0 in a mel."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from data.dataset import Batch
from data.mel import MelConfig, log_mel
from wavenet.conditioning import LOOK_AHEAD, MARGIN
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet, WaveNetConfig
from wavenet.objective import TeacherObjective
from wavenet.pitch import LOOK_BACK, TURN, Excitation, PitchHead, excitation, excite, recorded_excitation
from wavenet.pitch_objective import LOG_F0_WEIGHT, PitchObjective
from wavenet.sampling.generate import Backend, generate, parameters

HOP = 8
MakeWaveNet = Callable[..., WaveNet]


def contour(frames: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Voices of random pitch that come and go, (batch, frames) in periods a sample."""
    generator = torch.Generator().manual_seed(seed)
    pitch = torch.rand(batch, frames, generator=generator, dtype=torch.float64) * 0.05 + 0.002
    return pitch * (torch.rand(batch, frames, generator=generator) > 0.3)


def mel_like(frames: int, batch: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(batch, 5, frames, dtype=dtype, generator=torch.Generator().manual_seed(2)) * 2.5 - 5


# The phase


@pytest.mark.parametrize("hop", [7, 256])
def test_a_constant_pitch_is_a_sine(hop: int) -> None:
    waves, phase = excitation(torch.full((1, 3), 0.01, dtype=torch.float64), hop, 3 * hop)
    turns = 0.01 * torch.arange(3 * hop + 1, dtype=torch.float64)
    expected = torch.stack([(2 * math.pi * turns).sin(), (2 * math.pi * turns).cos(), torch.ones_like(turns)], dim=-1)
    torch.testing.assert_close(waves[0], expected[:-1].float(), atol=1e-6, rtol=0)
    assert float(phase) / TURN == pytest.approx(float(turns[-1]) % 1, abs=1e-6)


@pytest.mark.parametrize("hop", [5, 8])
def test_the_phase_is_the_integral_of_a_glide(hop: int) -> None:
    """F0 = a + b t from the first frame's centre on, and constant before it."""
    frames, rate, low, slope = 40_000, 16_000, 100.0, 2e-3
    centres = (torch.arange(frames, dtype=torch.float64) + 0.5) * hop
    f0 = ((low + slope * centres) / rate)[None]
    begin, length = hop * (frames - 2), hop
    waves = Excitation(f0, hop)(begin, begin + length)[0].double()

    t = torch.arange(begin, begin + length, dtype=torch.float64)
    integral = low * t + slope * t**2 / 2 + slope * (hop / 2) ** 2 / 2
    expected = 2 * math.pi * integral / rate
    torch.testing.assert_close(waves[:, 0], expected.sin(), atol=2e-4, rtol=0)
    torch.testing.assert_close(waves[:, 1], expected.cos(), atol=2e-4, rtol=0)


def test_ten_minutes_of_one_pitch_drift_by_nothing() -> None:
    hop, frames = 256, 51_680
    f0 = torch.full((1, frames), 220 / 22050, dtype=torch.float64)
    last = Excitation(f0, hop)((frames - 1) * hop, frames * hop)[0, :, 0]
    t = torch.arange((frames - 1) * hop, frames * hop, dtype=torch.float64)
    expected = (2 * math.pi * ((t * f0[0, 0]) % 1)).sin()
    torch.testing.assert_close(last, expected.float(), atol=1e-6, rtol=0)


@given(cuts=st.lists(st.integers(1, 12 * HOP - 1), max_size=5), seed=st.integers(0, 100), hop=st.sampled_from([7, HOP]))
def test_any_pieces_are_the_whole_bit_for_bit(cuts: list[int], seed: int, hop: int) -> None:
    f0, length = contour(12, batch=2, seed=seed), 12 * hop
    whole, end = excitation(f0, hop, length)
    edges, phase, pieces = [0, *sorted({cut for cut in cuts if cut < length}), length], None, []
    anywhere = Excitation(f0, hop)
    for start, stop in pairwise(edges):
        piece, phase = excitation(f0, hop, stop - start, start, phase)
        pieces.append(piece)
        assert torch.equal(anywhere(start, stop), piece)
    assert torch.equal(torch.cat(pieces, dim=1), whole)
    assert phase is not None and torch.equal(phase, end)


def test_more_frames_than_are_worked_on_at_a_time_change_nothing() -> None:
    f0 = contour(2500)
    assert torch.equal(Excitation(f0, HOP)(0, 2500 * HOP), excitation(f0, HOP, 2500 * HOP)[0])


def test_beyond_the_end_the_last_frame_goes_on() -> None:
    f0 = contour(5)
    f0[:, -1] = 0.01
    longer = torch.cat([f0, f0[:, -1:].expand(-1, 3)], dim=1)
    assert torch.equal(Excitation(f0, HOP)(30, 8 * HOP), Excitation(longer, HOP)(30, 8 * HOP))


def test_where_there_is_no_voice_all_is_zero_and_the_phase_goes_on_from_where_it_was() -> None:
    f0 = torch.tensor([[0.02, 0.02, 0.0, 0.0, 0.03]], dtype=torch.float64)
    waves = excitation(f0, HOP, 5 * HOP)[0][0]
    assert waves[2 * HOP : 4 * HOP].abs().max() == 0
    assert (waves[: 2 * HOP, 2] == 1).all() and (waves[4 * HOP :, 2] == 1).all()
    half = HOP // 2  # held to the middle of the neighbouring frame, where F0 ends and begins
    turns = 0.02 * (2 * HOP + half) + 0.03 * half
    torch.testing.assert_close(waves[4 * HOP, 0].double(), torch.tensor(2 * math.pi * turns).double().sin())


# The phase of a recording


def recording(frames: int, hop: int) -> tuple[Tensor, Tensor, Tensor]:
    """A voice that glides by a fifth, its waveform (1, T) and F0 (1, L), and the turns of its fundamental (T,)."""
    t = torch.arange(frames * hop, dtype=torch.float64)
    low, slope = 0.008, 0.004 / (frames * hop)
    turns = 0.3 + low * t + slope * t**2 / 2
    wav = sum((2 * math.pi * (k * turns + 0.17 * (k - 1))).cos() / k for k in range(1, 12))
    centres = (torch.arange(frames, dtype=torch.float64) + 0.5) * hop
    return wav[None], (low + slope * centres)[None], turns


@pytest.mark.parametrize(("hop", "start"), [(256, 0), (256, 3), (255, 5)])
def test_the_cosine_goes_with_the_fundamental_wherever_a_crop_begins(hop: int, start: int) -> None:
    wav, f0, turns = recording(24, hop)
    crop = slice(start * hop, (start + 16) * hop)
    waves = recorded_excitation(wav[:, crop], f0[:, start : start + 16], hop)[0]
    expected = torch.stack([(2 * math.pi * turns).sin(), (2 * math.pi * turns).cos()], dim=-1)[crop]
    inside = slice(2 * hop, -2 * hop)  # where the window sees the recording on both sides
    torch.testing.assert_close(waves[inside, :2].double(), expected[inside], atol=0.02, rtol=0)
    torch.testing.assert_close(waves[:, :2].double(), expected, atol=0.2, rtol=0)
    assert (waves[:, 2] == 1).all()


def test_frames_beyond_the_recording_are_left_out() -> None:
    wav, f0, _ = recording(20, 256)
    whole = recorded_excitation(wav, f0, 256)
    within = recorded_excitation(wav[:, 4 * 256 : -4 * 256], f0, 256, margin=4)
    middle = slice(3 * 256, -3 * 256)
    torch.testing.assert_close(within[:, middle], whole[:, 4 * 256 : -4 * 256][:, middle], atol=1e-3, rtol=0)


def test_a_measured_f0_a_little_off_does_not_carry_the_phase_away() -> None:
    wav, f0, turns = recording(64, 256)
    for factor in (0.99, 1.01):
        waves = recorded_excitation(wav, f0 * factor, 256)[0, 512:-512, 1].double()
        torch.testing.assert_close(waves, (2 * math.pi * turns[512:-512]).cos(), atol=0.1, rtol=0)
        adrift = excitation(f0 * factor, 256, 64 * 256)[0][0, 512:-512, 1].double()
        assert (adrift - (2 * math.pi * (turns[512:-512] - 0.3)).cos()).abs().max() > 1


def test_a_recording_without_a_voice_or_without_sound_is_no_trouble() -> None:
    wav, f0, _ = recording(8, 256)
    assert recorded_excitation(wav, torch.zeros_like(f0), 256).abs().max() == 0
    silent = recorded_excitation(torch.zeros_like(wav), f0, 256)
    assert silent.isfinite().all() and (silent[..., 2] == 1).all()


def test_a_model_reads_the_phase_of_the_recording_only_with_its_measured_pitch(make_wavenet: MakeWaveNet) -> None:
    model, mel = make_wavenet(pitch=True), mel_like(9)
    wav, f0, _ = recording(9, HOP)
    both = model.excite(mel, f0, recording=wav)
    assert both is not None and torch.equal(both, recorded_excitation(wav, f0, HOP))
    heard = model.excite(mel, recording=wav), model.excite(mel)
    assert heard[0] is not None and heard[1] is not None and torch.equal(*heard)


# The head


def test_the_head_looks_as_far_as_it_says() -> None:
    torch.manual_seed(0)
    head = PitchHead(5).double()
    mel = mel_like(30).requires_grad_()
    (slope,) = torch.autograd.grad(sum(each[0, 15] for each in head(mel)), mel)
    reads = slope[0].abs().sum(dim=0).nonzero().flatten().tolist()
    assert reads == list(range(15 - LOOK_BACK, 15 + LOOK_AHEAD + 1))


@pytest.mark.parametrize(("start", "stop"), [(-2, 3), (0, 20), (7, 9), (15, 24)])
def test_a_window_of_the_head_is_what_the_whole_holds_there(start: int, stop: int) -> None:
    torch.manual_seed(0)
    head, mel = PitchHead(5), mel_like(20, 2, torch.float32)
    whole = head.f0(mel)
    assert 0 < (whole > 0).double().mean() < 1
    torch.testing.assert_close(whole[whole > 0].log(), head.double()(mel.double())[0][whole > 0], rtol=1e-12, atol=0)
    window = head.window(mel, start, stop)
    torch.testing.assert_close(window, whole[:, torch.arange(start, stop).clamp(0, 19)], rtol=1e-12, atol=0)


def tones(count: int, config: MelConfig) -> tuple[Tensor, Tensor]:
    """Mels of harmonic tones among noise, and their F0 in periods a sample."""
    generator = torch.Generator().manual_seed(0)
    frames, hop = 48, config.hop_length
    t = torch.arange(frames * hop) / config.sample_rate
    centres = (torch.arange(frames) + 0.5) * hop / config.sample_rate
    mels, contours = [], []
    for _ in range(count):
        low, slope, turn = (float(each) for each in torch.rand(3, generator=generator))
        low, slope = 120 + 120 * low, 200 * (slope - 0.5)
        phase = 2 * math.pi * (low * t + slope * t**2 / 2)
        voiced = torch.sin(2 * math.pi * (5 * centres + turn)) > 0
        tone = sum(torch.sin(k * phase) / k for k in range(1, 9))
        wav = 0.1 * tone * voiced.repeat_interleave(hop) + 0.01 * torch.randn(len(t), generator=generator)
        mels.append(log_mel(wav, config))
        contours.append((low + slope * centres) / config.sample_rate * voiced)
    return torch.stack(mels), torch.stack(contours)


def test_the_head_learns_to_hear_pitch() -> None:
    """On tones that it has not heard its losses fall below those of any constant."""
    config = MelConfig(sample_rate=8000, n_fft=256, win_length=256, hop_length=64, n_mels=40, fmax=4000.0)
    mel, f0 = tones(16, config)
    new_mel, new_f0 = mel[12:], f0[12:]
    torch.manual_seed(0)
    head = PitchHead(40, channels=32)
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    for _ in range(150):
        voicing, log_f0 = head.losses(mel[:12], f0[:12], slice(None))
        optimizer.zero_grad()
        (voicing + log_f0).backward()
        optimizer.step()
    voicing, log_f0 = (float(loss.detach()) for loss in head.losses(new_mel, new_f0, slice(None)))
    share = float((new_f0 > 0).double().mean())
    pitch = new_f0[new_f0 > 0].log()
    assert voicing < 0.5 * -(share * math.log(share) + (1 - share) * math.log(1 - share))
    assert log_f0 < 0.5 * float((pitch - pitch.median()).abs().mean())
    heard = head.f0(new_mel)
    assert ((heard > 0) == (new_f0 > 0)).double().mean() > 0.9


def test_only_the_frames_that_count_are_in_the_losses() -> None:
    torch.manual_seed(0)
    head, mel, f0 = PitchHead(5), mel_like(12, 2, torch.float32), contour(12, 2)
    other = f0.clone()
    other[:, :4] = 0.2
    for ours, theirs in zip(head.losses(mel, f0, slice(4, 9)), head.losses(mel, other, slice(4, 9)), strict=True):
        assert torch.equal(ours, theirs)
    silent = head.losses(mel, torch.zeros(2, 12), slice(None))
    assert not silent[1].any()


# The teacher


@pytest.fixture
def model(make_wavenet: MakeWaveNet) -> WaveNet:
    return make_wavenet(OutputKind.mol, pitch=True)


def test_parameters_at_t_come_from_before_t_with_pitch_too(model: WaveNet) -> None:
    x, mel = 0.3 * torch.randn(1, 40, dtype=torch.float64), mel_like(5)
    slopes = torch.autograd.functional.jacobian(lambda x: model(x, mel).square().sum(dim=(0, 2)), x)[:, 0]
    t, u = torch.arange(40)[:, None], torch.arange(40)[None, :]
    assert torch.equal(slopes.abs() > 0, (u < t) & (u >= t - model.receptive_field))


def test_the_excitation_of_a_sample_is_its_own(model: WaveNet) -> None:
    """It is part of the condition: not shifted, and heard as far back as a sample is."""
    x, mel = 0.3 * torch.randn(1, 40, dtype=torch.float64), mel_like(5)
    excited = torch.randn(1, 40, 3, dtype=torch.float64)

    def params(excited: Tensor) -> Tensor:
        return model(x, mel, excitation=excited).square().sum(dim=(0, 2))

    slopes = torch.autograd.functional.jacobian(params, excited)[:, 0].abs().sum(dim=2)
    t, u = torch.arange(40)[:, None], torch.arange(40)[None, :]
    assert torch.equal(slopes > 0, (u <= t) & (u >= t - model.receptive_field + 1))


@torch.no_grad()
def test_another_pitch_makes_other_parameters(model: WaveNet) -> None:
    x, mel = 0.3 * torch.randn(1, 40, dtype=torch.float64), mel_like(5)
    low, high = (model.excite(mel, torch.full((1, 5), f0)) for f0 in (0.01, 0.012))
    assert not torch.allclose(model(x, mel, excitation=low), model(x, mel, excitation=high))


@torch.no_grad()
def test_by_default_a_model_reads_the_pitch_that_it_hears(model: WaveNet) -> None:
    assert model.pitch is not None
    x, mel = 0.3 * torch.randn(2, 40, dtype=torch.float64), mel_like(5 + 2 * MARGIN, 2)
    heard = excite(None, mel, None, HOP), excite(model.pitch, mel, model.pitch.f0(mel), HOP, MARGIN)
    assert heard[0] is None and heard[1] is not None and 0 < heard[1][..., 2].mean() < 1
    assert torch.equal(model(x, mel, margin=MARGIN), model(x, mel, margin=MARGIN, excitation=heard[1]))


@pytest.mark.parametrize("backend", Backend)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_incremental_is_full_with_pitch(make_wavenet: MakeWaveNet, backend: Backend, dtype: torch.dtype) -> None:
    model = make_wavenet(OutputKind.mol, n_speakers=2, dtype=dtype, pitch=True)
    x, mel = 0.3 * torch.randn(3, 80, dtype=dtype), mel_like(10, 3, dtype)
    speaker = torch.tensor([0, 1, 0])
    whole, steps = model(x, mel, speaker), parameters(model, x, mel, speaker, backend)
    tolerance = 1e-5 if dtype is torch.float32 else 1e-11
    torch.testing.assert_close(steps, whole, rtol=tolerance, atol=tolerance * whole.abs().max())


def test_all_backends_say_the_same_with_pitch_and_each_utterance_by_itself(make_wavenet: MakeWaveNet) -> None:
    model = make_wavenet(OutputKind.mol, pitch=True)
    mel = mel_like(150, 5)  # longer than a chunk of the sampler
    cached, compiled = (generate(model, mel[:1], backend=backend) for backend in (Backend.cached, Backend.numba))
    assert torch.equal(cached, compiled)
    together = generate(model, mel)
    assert torch.equal(together[:1], compiled)
    assert torch.equal(generate(model, mel[4:], seed=4), together[4:])
    naive = generate(model, mel[:1], length=40, backend=Backend.naive)
    assert torch.equal(naive, compiled[:, :40])


def batch_like(frames: int, left: int = 1) -> Batch:
    return Batch(
        0.3 * torch.randn(2, (frames - 2 * MARGIN) * HOP),
        mel_like(frames, 2, torch.float32),
        torch.zeros(2, dtype=torch.long),
        left=left * HOP,
        margin=MARGIN,
        f0=contour(frames, 2).float(),
    )


def test_a_teacher_reads_the_measured_pitch_and_does_not_train_its_head(make_wavenet: MakeWaveNet) -> None:
    model, batch = make_wavenet(pitch=True, dtype=torch.float32), batch_like(10)
    x = model.distribution.quantise(batch.wav)
    report = TeacherObjective(model, 1.0, 8000, [])(batch, 1)
    measured = model(x, batch.mel, margin=MARGIN, excitation=model.excite(batch.mel, batch.f0, MARGIN, batch.wav))
    expected = -model.distribution.log_density(measured, x)[:, HOP:].mean()
    torch.testing.assert_close(report.loss, expected)
    assert report.terms.keys() == {"nll", "bits"}
    report.loss.backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None and bool(weight.grad.any())) != name.startswith("pitch."), name


def test_what_teaches_the_head_counts_no_frame_of_the_context() -> None:
    batch = batch_like(14, left=3)
    objective = PitchObjective(PitchHead(5), HOP)
    voicing, log_f0 = objective.model.losses(batch.mel, batch.f0, slice(3 + MARGIN, 14 - MARGIN))
    report = objective(batch, 0)
    torch.testing.assert_close(report.loss, voicing + LOG_F0_WEIGHT * log_f0)
    report.loss.backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in objective.model.parameters())
    assert objective.samples(batch) == 2 * 5 * HOP


def test_the_errors_of_the_head_are_told_in_cents_and_shares() -> None:
    """A head that hears a semitone too much, and one silent frame in five as voiced."""

    class Wrong(PitchHead):
        def f0(self, mel: Tensor) -> Tensor:
            return torch.where(batch.f0 > 0, batch.f0 * 2 ** (1 / 12), 0.01 * missed)

    batch, missed = batch_like(11, left=0), torch.zeros(2, 11)
    batch.f0 = torch.full((2, 11), 0.01)
    batch.f0[:, 5], missed[:, 5] = 0.0, 1.0
    figures = PitchObjective(Wrong(5), HOP).validate(batch)
    assert figures["cents"] == pytest.approx(100, abs=1e-3)
    assert figures["misheard"] == pytest.approx(1 / 5)
    batch.f0 = torch.zeros(2, 11)
    assert "cents" not in PitchObjective(Wrong(5), HOP).validate(batch)


def test_pitch_without_a_mel_is_refused(model: WaveNet) -> None:
    with pytest.raises(ValueError, match="pitch is true, but is heard in a mel and n_mels is 0"):
        WaveNetConfig(n_mels=0, pitch=True)
    with pytest.raises(ValueError, match="pass mel"):
        model.excite(None)
