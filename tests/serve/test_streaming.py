"""Chunks of a mel become pieces of waveform: together one pass, whatever the chunks."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.mel import MelConfig, MelError
from distill.correction import ROUNDS, MelCorrection
from serve import Vocoder
from serve.streaming import FIRST_PIECE, LARGEST_PIECE, LOOK_AHEAD
from wavenet.kernels import use_backend

Utterance = Callable[..., NDArray[np.float32]]
FRAMES = 150


@pytest.fixture(
    scope="module", params=[("states carried on", ROUNDS), ("computed again", ROUNDS), ("states carried on", 0)]
)
def vocoder(request: pytest.FixtureRequest, toy_student: Path) -> Vocoder:
    """One whose streams work in either way, with and without correction."""
    way, rounds = request.param
    made = Vocoder.from_pretrained(toy_student, device="cpu", rounds=rounds)
    if way == "computed again":
        with use_backend("reference"):
            assert made.streaming.packed is None
    else:
        assert made.streaming.packed is not None
    return made


def cut(mel: NDArray[np.float32], widths: list[int]) -> list[NDArray[np.float32]]:
    """Chunks of these widths, again and again, until the mel ends."""
    edges = np.cumsum(widths * (mel.shape[1] // sum(widths) + 1))
    return [chunk for chunk in np.split(mel, edges[edges < mel.shape[1]], axis=1) if chunk.size]


def assert_same(wav: NDArray[np.float32], one_pass: NDArray[np.float32]) -> None:
    np.testing.assert_allclose(wav, one_pass, rtol=0, atol=1e-5 * np.abs(one_pass).max())


@pytest.mark.parametrize("widths", [[1], [2, 1, 5], [3, 40], [FRAMES]])
def test_any_chunks_make_one_pass(vocoder: Vocoder, toy_utterance: Utterance, widths: list[int]) -> None:
    mel = toy_utterance(FRAMES)
    pieces = list(vocoder.stream(cut(mel, widths), seed=7, temperature=0.8))
    assert_same(np.concatenate(pieces), vocoder(mel, seed=7, temperature=0.8))


@given(widths=st.lists(st.integers(1, 60), min_size=1, max_size=8), frames=st.integers(1, 80))
@settings.get_profile("serve")
def test_no_division_changes_the_sound(
    toy_vocoder: Vocoder, toy_utterance: Utterance, widths: list[int], frames: int
) -> None:
    mel = toy_utterance(80)[:, :frames]
    assert_same(np.concatenate(list(toy_vocoder.stream(cut(mel, widths)))), toy_vocoder(mel))


def test_bfloat16_keeps_35_db(toy_student: Path, toy_utterance: Utterance) -> None:
    vocoder, mel = Vocoder.from_pretrained(toy_student, device="cpu", dtype="bfloat16"), toy_utterance(FRAMES)
    exact = Vocoder.from_pretrained(toy_student, device="cpu")(mel)
    for one_pass in (vocoder(mel), exact):
        error = np.concatenate(list(vocoder.stream(cut(mel, [7])))) - one_pass
        assert np.square(error).mean() < 10**-3.5 * np.square(one_pass).mean()


def test_a_sample_waits_for_the_frames_that_it_needs(
    vocoder: Vocoder, toy_utterance: Utterance, toy_mel: MelConfig
) -> None:
    """Three for the student, as many samples as `MelCorrection` tells for the correction, and no frame more."""
    mel, hop = toy_utterance(40), toy_mel.hop_length
    assert vocoder.look_ahead == LOOK_AHEAD + -(-MelCorrection(toy_mel, vocoder.rounds).look_ahead // hop)
    whole, stream, said = vocoder(mel), vocoder.begin(), 0
    for n in range(40):
        wav = stream.push(vocoder.frames(mel[:, n : n + 1])).numpy()
        said += len(wav)
        assert stream.made == max(0, n + 1 - LOOK_AHEAD) * hop
        certain = (n + 1 - vocoder.look_ahead) * hop
        assert max(0, certain) <= said < max(1, certain + hop)
        np.testing.assert_allclose(wav, whole[said - len(wav) : said], atol=1e-5 * np.abs(whole).max())
    assert said and not stream.done
    assert len(stream.finish()) == len(whole) - said
    assert stream.done
    assert stream.samples == len(whole)
    assert stream.frames == 40


@pytest.mark.parametrize("rounds", [0, 1, ROUNDS])
def test_the_frames_in_between_do_matter(
    toy_student: Path, toy_utterance: Utterance, toy_mel: MelConfig, rounds: int
) -> None:
    """With less of a look-ahead it would be another waveform; windows that begin at 0 let little of it through."""
    vocoder, hop = Vocoder.from_pretrained(toy_student, device="cpu", rounds=rounds), toy_mel.hop_length
    mel = toy_utterance(12 + vocoder.look_ahead)
    changed = mel.copy()
    changed[:, 6 + vocoder.look_ahead] += 1.0
    before, after = vocoder(mel), vocoder(changed)
    if not rounds:
        assert np.abs(before - after)[6 * hop : 7 * hop].max() > 1e-4
    np.testing.assert_array_equal(before[: 6 * hop], after[: 6 * hop])


def test_the_first_piece_is_small_and_none_is_large(toy_vocoder: Vocoder, toy_utterance: Utterance) -> None:
    stream, sizes = toy_vocoder.begin(), []
    stream.append(toy_vocoder.frames(toy_utterance(300)))
    while stream.ready:
        before = stream.made
        toy_vocoder.streaming.advance([stream])
        sizes.append(stream.made - before)
    assert sizes[0] == FIRST_PIECE
    assert max(sizes) == LARGEST_PIECE
    assert all(later <= 2 * size for size, later in itertools.pairwise(sizes))


def test_what_is_kept_does_not_grow(vocoder: Vocoder, toy_utterance: Utterance) -> None:
    mel, stream, kept, held = toy_utterance(200), vocoder.begin(), set(), set()
    for _ in range(5):
        for chunk in cut(mel, [20]):
            stream.push(vocoder.frames(chunk))
            assert stream._mel is not None
            kept.add(stream._mel.shape[2])
            held.add(stream.made - stream.samples)
    assert stream.frames == 1000
    assert max(kept) < 60
    assert len(held) <= 3  # by the correction: more and more at first, then always as much


def test_what_comes_in_is_copied_once(
    vocoder: Vocoder, toy_utterance: Utterance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many chunks it comes in."""
    stream, copied, cat = vocoder.begin(), [], torch.cat

    def spy(tensors: list[torch.Tensor], dim: int = 0) -> torch.Tensor:
        copied.append(sum(each.shape[-1] for each in tensors))
        return cat(tensors, dim)

    mel = vocoder.frames(toy_utterance(100))
    monkeypatch.setattr(torch, "cat", spy)
    for n in range(100):
        stream.append(mel[:, n : n + 1])
    assert stream.frames == 100
    assert sum(copied) == 0
    stream.take()
    assert max(copied) == 100


def test_streams_side_by_side_do_not_hear_each_other(vocoder: Vocoder, toy_utterance: Utterance) -> None:
    """Of different lengths, begun at different times, and advanced together."""
    mels = [toy_utterance(frames, seed=frames) for frames in (90, 31, 60)]
    streams = [vocoder.begin(seed=seed) for seed in range(3)]
    said: list[list[torch.Tensor]] = [[], [], []]
    for stream, mel in zip(streams, mels, strict=True):
        stream.append(vocoder.frames(mel))
        stream.end()
    said[0] += [vocoder.streaming.advance(streams[:1])[0]]
    while waiting := [number for number in range(3) if not streams[number].done]:
        pieces = vocoder.streaming.advance([streams[number] for number in waiting])
        for number, piece in zip(waiting, pieces, strict=True):
            said[number].append(piece)
    for number, mel in enumerate(mels):
        assert_same(torch.cat(said[number]).numpy(), vocoder(mel, seed=number))


def test_a_speaker_keeps_the_voice(make_toy_student: Callable[..., Path], toy_utterance: Utterance) -> None:
    vocoder = Vocoder.from_pretrained(make_toy_student(speakers=("ada", "bob")), device="cpu")
    mel = toy_utterance(20)
    assert_same(np.concatenate(list(vocoder.stream([mel], speaker="bob"))), vocoder(mel, speaker="bob"))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**64}, "seed is"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"speaker": "eve"}, "'eve' is unknown"),
    ],
)
def test_an_option_is_refused_before_anything_is_said(
    toy_vocoder: Vocoder, options: dict[str, object], rule: str
) -> None:
    with pytest.raises(ValueError, match=rule):
        toy_vocoder.stream([], **options)


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda mel: mel[None], r"a chunk of a mel has the shape \(20, n\)"),
        (lambda mel: mel[:, :0], "zero frames"),
        (lambda mel: mel[:-1], "needs 20 bands"),
        (lambda mel: np.full_like(mel, np.nan), "NaN"),
    ],
)
def test_every_chunk_is_checked(
    toy_vocoder: Vocoder, toy_utterance: Utterance, spoil: Callable[..., NDArray[np.float32]], rule: str
) -> None:
    good = toy_utterance(5)
    with pytest.raises(MelError, match=rule):
        list(toy_vocoder.stream([good, spoil(good)]))


def test_no_mel_is_no_utterance(toy_vocoder: Vocoder) -> None:
    with pytest.raises(ValueError, match="zero frames"):
        list(toy_vocoder.stream([]))
