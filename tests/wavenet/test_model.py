import pytest
import torch
from torch.autograd.functional import jacobian

from wavenet.conditioning import MARGIN
from wavenet.distributions import OutputKind
from wavenet.model import WaveNetConfig
from wavenet.network import StackConfig

KINDS = list(OutputKind)
HOP = 8


def waveform(batch, length, dtype=torch.float64):
    return 0.3 * torch.randn(batch, length, dtype=dtype, generator=torch.Generator().manual_seed(1))


def mel_like(batch, frames, dtype=torch.float64):
    return torch.randn(batch, 5, frames, dtype=dtype, generator=torch.Generator().manual_seed(2)) * 2.5 - 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernel", [2, 3])
def test_parameters_at_t_come_from_the_receptive_field_before_t(make_wavenet, kind, kernel):
    model = make_wavenet(kind, StackConfig(3, 3, kernel, 8, 12, 10))
    reach = model.receptive_field
    T = -(-(2 * reach) // HOP) * HOP
    x, mel = waveform(3, T), mel_like(3, T // HOP)
    slopes = jacobian(lambda x: model(x, mel).square().sum(dim=(0, 2)), x)  # (T, B, T)
    t, u = torch.arange(T)[:, None], torch.arange(T)[None, :]
    assert torch.equal(slopes.abs().sum(dim=1) > 0, (u < t) & (u >= t - reach))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_sample_changes_the_parameters_of_the_next_one_but_not_its_own(make_wavenet, kind):
    model = make_wavenet(kind)
    x, mel = waveform(1, 40), mel_like(1, 5)
    before = model(x, mel)
    x[0, 20] += 0.1
    changed = (model(x, mel) != before).any(dim=-1)[0]
    assert not changed[:21].any()
    assert changed[21]


def test_parameters_read_at_most_four_mel_frames_ahead(make_wavenet):
    """Three in fact: two of the context network, one of the interpolation, in the second half of a frame."""
    model = make_wavenet()
    x, mel = waveform(3, 12 * HOP), mel_like(3, 12)
    slopes = jacobian(lambda mel: model(x, mel).square().sum(dim=(0, 2)), mel)  # (T, B, M, L)
    reads = slopes.abs().sum(dim=(1, 2)) > 0  # (T, L)
    for t in range(x.shape[1]):
        frame, last = t // HOP, int(reads[t].nonzero().max())
        ahead = 3 if t % HOP >= HOP // 2 else 2
        assert last == min(frame + ahead, 11)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hop", [7, 8])
@torch.no_grad()
def test_a_crop_with_margin_and_full_left_context_equals_the_whole_clip(make_wavenet, kind, hop):
    model = make_wavenet(kind, hop_length=hop)
    left_frames = -(-model.receptive_field // hop)
    L, first, last = 20, 8, 14  # the crop's frames
    x, mel = waveform(2, L * hop), mel_like(2, L)
    whole = model(x, mel)[:, first * hop : last * hop]
    begin = first - left_frames
    crop = model(x[:, begin * hop : last * hop], mel[..., begin - MARGIN : last + MARGIN], margin=MARGIN)
    torch.testing.assert_close(crop[:, left_frames * hop :], whole, rtol=1e-12, atol=1e-12)


@torch.no_grad()
def test_with_repeated_edge_frames_for_a_margin_only_the_outer_half_frames_differ(make_wavenet):
    """There the whole clip holds its end frames, and the crop interpolates towards the frames of its margin."""
    model = make_wavenet(stack=StackConfig(1, 1, 2, 8, 12, 10))
    x, mel = waveform(2, 6 * HOP), mel_like(2, 6)
    padded = torch.nn.functional.pad(mel, (MARGIN, MARGIN), mode="replicate")
    inner = slice(HOP // 2 + model.receptive_field, 6 * HOP - HOP // 2)
    torch.testing.assert_close(model(x, padded, margin=MARGIN)[:, inner], model(x, mel)[:, inner])


@pytest.mark.parametrize(("n_mels", "n_speakers"), [(0, 0), (5, 0), (0, 2), (5, 2)])
@torch.no_grad()
def test_a_model_reads_what_it_is_conditioned_on_and_nothing_else(make_wavenet, n_mels, n_speakers):
    model = make_wavenet(n_mels=n_mels, n_speakers=n_speakers)
    x, mel, speaker = waveform(2, 4 * HOP), mel_like(2, 4), torch.tensor([0, 1])
    params = model(x, mel, speaker)
    assert params.shape == (2, 4 * HOP, 2)
    assert torch.equal(params, model(x, mel + 1, speaker)) == (n_mels == 0)
    assert torch.equal(params, model(x, mel, 1 - speaker)) == (n_speakers == 0)


@torch.no_grad()
def test_swapping_two_speakers_embeddings_swaps_their_voices(make_wavenet):
    model = make_wavenet(n_speakers=2)
    x, mel = waveform(1, 32).expand(2, -1), mel_like(1, 4).expand(2, -1, -1)
    before = model(x, mel, torch.tensor([0, 1]))
    assert not torch.equal(before[0], before[1])
    voices = model.conditioner.speaker.weight
    voices.copy_(voices.flip(0))
    torch.testing.assert_close(model(x, mel, torch.tensor([1, 0])), before)


@torch.no_grad()
def test_utterances_of_a_batch_do_not_mix(make_wavenet):
    model = make_wavenet()
    x, mel = waveform(3, 32), mel_like(3, 4)
    alone = torch.cat([model(x[b : b + 1], mel[b : b + 1]) for b in range(3)])
    torch.testing.assert_close(model(x, mel), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_a_gradient(make_wavenet, kind):
    model = make_wavenet(kind, n_speakers=2, dtype=torch.float32)
    x = waveform(2, 64, torch.float32)
    params = model(x, mel_like(2, 8, torch.float32), torch.tensor([0, 1]))
    model.distribution.log_density(params, x).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


def test_parameters_are_float32_under_autocast(make_wavenet):
    model = make_wavenet(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        params = model(waveform(1, 16, torch.float32), mel_like(1, 2, torch.float32))
    assert params.dtype == torch.float32


@pytest.mark.parametrize("length", [0, 15, 17])
def test_a_waveform_that_the_mel_does_not_span_is_refused(make_wavenet, length):
    with pytest.raises(ValueError, match=f"2 mel frames.* the waveform has {length}"):
        make_wavenet()(waveform(1, length), mel_like(1, 2))


@pytest.mark.parametrize(("setting", "value"), [("context", 0), ("n_mels", -1), ("hop_length", 0), ("n_speakers", -1)])
def test_an_impossible_model_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=f"{setting} is {value}, but must be at least"):
        WaveNetConfig(**{setting: value})
