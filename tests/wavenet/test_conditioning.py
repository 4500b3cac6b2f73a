import pytest
import torch

from wavenet.conditioning import LOOK_AHEAD, Conditioner, check_condition, speaker_index


def test_the_context_network_looks_two_frames_to_each_side():
    torch.manual_seed(0)
    conditioner = Conditioner(5, 0, 16).double()
    mel = torch.randn(3, 5, 9, dtype=torch.float64, requires_grad=True)
    cond = conditioner(mel, None)
    (slope,) = torch.autograd.grad(cond[:, 4].sum(), mel)
    reads = slope.abs().sum(dim=(0, 1)) > 0
    assert reads.nonzero().flatten().tolist() == list(range(4 - LOOK_AHEAD, 4 + LOOK_AHEAD + 1))


def test_frames_beyond_the_ends_are_the_end_frames():
    torch.manual_seed(0)
    conditioner = Conditioner(5, 0, 6).double()
    mel = torch.randn(1, 5, 4, dtype=torch.float64)
    longer = torch.cat([mel[..., :1].expand(-1, -1, 3), mel, mel[..., -1:].expand(-1, -1, 3)], dim=-1)
    torch.testing.assert_close(conditioner(longer, None)[:, 3:-3], conditioner(mel, None))


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_the_shortest_mels_have_a_condition(frames):
    assert Conditioner(5, 2, 6)(torch.randn(2, 5, frames), torch.tensor([0, 1])).shape == (2, frames, 6)


def test_without_mel_and_speaker_there_is_no_condition():
    assert Conditioner(0, 0, 6)(torch.randn(1, 5, 4), torch.tensor([0])) is None


def test_a_speaker_alone_is_one_frame_that_lasts():
    conditioner = Conditioner(0, 3, 6)
    cond = conditioner(None, torch.tensor([2, 0]))
    assert torch.equal(cond[:, 0], conditioner.speaker.weight[[2, 0]])


def test_mel_and_speaker_add():
    conditioner = Conditioner(5, 3, 6)
    mel = torch.randn(2, 5, 4)
    a, b = (conditioner(mel, torch.tensor([speaker, speaker])) for speaker in (0, 1))
    voices = conditioner.speaker.weight
    torch.testing.assert_close(b - a, (voices[1] - voices[0]).expand(2, 4, 6))


def test_a_missing_mel_is_refused():
    with pytest.raises(ValueError, match="none was given: pass mel"):
        Conditioner(5, 0, 6)(None, None)


def test_a_missing_speaker_is_refused():
    with pytest.raises(ValueError, match=r"has 3 speakers, but none was chosen: pass speaker, 0\.\.2"):
        Conditioner(0, 3, 6)(None, None)


@pytest.mark.parametrize("speaker", [-1, 3])
def test_an_unknown_speaker_is_refused(speaker):
    with pytest.raises(ValueError, match=r"unknown: this model has speakers 0\.\.2"):
        Conditioner(0, 3, 6)(None, torch.tensor([0, speaker]))


@pytest.mark.parametrize(("frames", "margin"), [(7, 3), (4, 0), (10, 3), (12, 3)])
def test_a_mel_that_does_not_span_the_waveform_is_refused(frames, margin):
    with pytest.raises(ValueError, match=f"{frames} mel frames, of which {margin} .* the waveform has 50"):
        check_condition(torch.zeros(1, 5, frames), 50, 10, margin)


def test_a_mel_that_spans_the_waveform_and_its_margin_is_taken():
    check_condition(torch.zeros(1, 5, 11), 50, 10, margin=3)
    check_condition(None, 50, 10, margin=3)


def test_speakers_are_chosen_by_name():
    assert speaker_index("bob", ["ann", "bob"]).tolist() == [1]
    assert speaker_index(None, []) is None
    assert speaker_index(None, ["ann"]) is None
    assert speaker_index("ann", ["ann"]) is None


@pytest.mark.parametrize(
    ("name", "speakers", "message"),
    [
        ("eve", ["ann", "bob"], "'eve' is unknown: choose one of ann, bob"),
        (None, ["ann", "bob"], "has 2 speakers: choose one of ann, bob"),
        ("eve", ["ann"], "'eve' is unknown: this model has one speaker"),
        ("eve", [], "'eve' is unknown: this model has one speaker"),
    ],
)
def test_a_wrong_name_of_a_speaker_is_refused(name, speakers, message):
    with pytest.raises(ValueError, match=message):
        speaker_index(name, speakers)


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, 9), (3, 5), (7, 11), (-3, 12)])
@pytest.mark.parametrize("speakers", [0, 2])
def test_a_window_is_what_the_whole_condition_holds_there(start, stop, speakers):
    conditioner = Conditioner(5, speakers, 8)
    mel, speaker = torch.randn(2, 5, 9), torch.tensor([1, 0]) if speakers else None
    whole = conditioner(mel, speaker)[:, torch.arange(start, stop).clamp(0, 8)]
    torch.testing.assert_close(conditioner.window(mel, speaker, start, stop), whole)


def test_a_constant_condition_is_the_same_in_every_window():
    conditioner, speaker = Conditioner(0, 3, 8), torch.tensor([2])
    assert torch.equal(conditioner.window(None, speaker, 4, 9), conditioner(None, speaker))
