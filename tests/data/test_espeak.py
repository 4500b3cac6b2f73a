"""Synthetic speech: audible, dithered, the same every time, and different from voice to voice."""

import numpy as np
import pytest

from data.audio import PCM_SCALE, AudioError, to_pcm
from data.espeak import DITHER, speak

TEXT = "Good morning."


def test_the_same_text_and_voice_give_the_same_samples_whatever_was_said_before() -> None:
    first, rate = speak(TEXT, "en-us+f3")  # a voice with breath noise and flutter
    speak("Something else.", "en-us")
    again, _ = speak(TEXT, "en-us+f3")
    assert rate == 22050
    assert first.tobytes() == again.tobytes()


def test_voices_and_texts_differ() -> None:
    waves = [speak(TEXT, "en-us")[0], speak(TEXT, "en-us+m3")[0], speak("Good evening.", "en-us")[0]]
    assert len({wave.tobytes() for wave in waves}) == 3


def test_its_level_is_that_of_speech_and_its_pauses_are_not_zero() -> None:
    wav, rate = speak(TEXT, "en-us")
    assert 0.5 < len(wav) / rate < 3
    assert 0.1 < np.abs(wav).max() < 0.5
    start = wav[:100]  # before the first sound
    assert start.std() == pytest.approx(DITHER, rel=0.3)
    assert (to_pcm(wav) == 0).mean() < 0.1
    assert DITHER * PCM_SCALE < 10


@pytest.mark.parametrize(
    ("voice", "message"),
    [
        ("martian", "'martian': eSpeak knows no such voice; `en-us`"),
        ("en-us+f99", "there is no variant 'f99'; f1 to f5"),
    ],
)
def test_an_unknown_voice_is_refused(voice: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        speak(TEXT, voice)
