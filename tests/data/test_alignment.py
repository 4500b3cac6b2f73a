"""Alignment: what eSpeak says keeps its own times, and a recording of the same words gets those of its own."""

import numpy as np
import pytest
import torch

from data.alignment import align, phones_of_frames, warp
from data.espeak import PAUSE, Phone, Spoken, pronounce
from data.mel import MelConfig, log_mel

TEXT = "Author of the danger trail, Philip Steels, etc."
CONFIG = MelConfig()


@pytest.fixture(scope="module")
def said() -> tuple[np.ndarray, list[str]]:
    """The mel of a voice, and its phones by the times that eSpeak itself gives."""
    spoken = pronounce(TEXT, "en-us+f3")
    mel = log_mel(torch.from_numpy(spoken.wav), CONFIG).numpy()
    return mel, phones_of_frames(spoken, mel.shape[1], CONFIG)


def agreement(one: list[str], other: list[str]) -> float:
    return float(np.mean([a == b for a, b in zip(one, other, strict=True)]))


def test_a_frame_has_the_phone_that_sounds_at_its_centre() -> None:
    spoken = Spoken(np.zeros(0, np.float32), 22050, [Phone("a", 128), Phone("b", 385), Phone("c", 641)])
    assert phones_of_frames(spoken, 5, CONFIG) == ["a", "a", "b", "c", "c"]  # centres 128, 384, 640, 896, 1152
    half = MelConfig(sample_rate=11025, n_fft=512, win_length=512, hop_length=128, fmax=5000.0)
    assert phones_of_frames(spoken, 5, half) == ["a", "a", "b", "c", "c"]
    late = Spoken(spoken.wav, 22050, [Phone("a", 300)])
    assert phones_of_frames(late, 2, CONFIG) == [PAUSE, "a"]


def test_what_a_voice_says_keeps_its_own_times(said: tuple[np.ndarray, list[str]]) -> None:
    mel, phones = said
    assert align(TEXT, "en-us+f3", mel, CONFIG) == phones
    assert len(set(phones)) > 15


@pytest.mark.parametrize("voice", ["en-us", "en-us+m3", "en-us+f2"])
def test_another_voice_agrees_on_nine_tenths_of_the_frames(said: tuple[np.ndarray, list[str]], voice: str) -> None:
    mel, phones = said
    assert agreement(align(TEXT, voice, mel, CONFIG), phones) > 0.9


def test_a_slower_speaker_keeps_each_phone_for_longer(said: tuple[np.ndarray, list[str]]) -> None:
    """A third as fast at first, then faster, and with pauses before and after."""
    mel, phones = said
    L, rng = len(phones), np.random.default_rng(0)
    stretched = np.sort(np.concatenate([np.arange(L), np.arange(L // 2), np.arange(L // 4)]))
    room = mel.min() + 0.3 * rng.standard_normal((len(mel), 40)).astype(np.float32)
    slow = np.concatenate([room, mel[:, stretched], room], axis=1)
    found = align(TEXT, "en-us", slow, CONFIG)
    assert agreement(found[40:-40], [phones[n] for n in stretched]) > 0.9
    assert agreement(found[:40] + found[-40:], [PAUSE] * 80) > 0.9


def test_the_level_does_not_count(said: tuple[np.ndarray, list[str]]) -> None:
    mel, _ = said
    assert align(TEXT, "en-us", mel - 2.0, CONFIG) == align(TEXT, "en-us", mel, CONFIG)


def test_a_path_never_goes_back_and_meets_both_ends(said: tuple[np.ndarray, list[str]]) -> None:
    mel, _ = said
    frames = warp(mel[:, ::2], mel)
    assert frames.shape == (mel.shape[1],)
    assert (np.diff(frames) >= 0).all()
    assert frames[0] <= 2 and frames[-1] >= mel.shape[1] // 2 - 3
    assert np.abs(frames - np.arange(mel.shape[1]) / 2).mean() < 2
