"""Which phone sounds when in a recording: eSpeak says its text, and dynamic time warping lays that over the recording.

What eSpeak says comes with the times of its phones. The warping path (Sakoe and Chiba 1978) between the cepstra of the
two takes them over to the recording, frame by frame. Laid over itself, what eSpeak says keeps its own times.
"""

import numpy as np
import numpy.typing as npt
import torch

from data.audio import AudioError, resample
from data.espeak import PAUSE, Spoken, pronounce
from data.mel import MelConfig, log_mel

CEPSTRA = 13
RANGE = 7.0  # nats under the loudest band, about 60 dB: what is below is a room's noise, and no speaker's

Frames = npt.NDArray[np.float32]


def align(text: str, voice: str, mel: Frames, config: MelConfig) -> list[str]:
    """The phone that sounds at the centre of every frame of a recording of `text`.

    Args:
        voice: of eSpeak, as near to the speaker as possible.
        mel: (M, L), the recording's log-mel by `config`.

    Returns:
        L names.

    Raises:
        AudioError: no such voice, or a text that gives no sound.
    """
    spoken = pronounce(text, voice)
    wav = resample(spoken.wav, spoken.rate, config.sample_rate)
    if len(wav) < config.hop_length:
        raise AudioError(f"eSpeak has nothing to say of the text {text!r}; give it words")
    said = log_mel(torch.from_numpy(wav).double(), config).float().numpy()  # (M, L')
    names = [PAUSE, *phones_of_frames(spoken, said.shape[1], config), PAUSE]
    return [names[frame] for frame in warp(_between_pauses(said), _between_pauses(mel))[1:-1]]


def phones_of_frames(spoken: Spoken, count: int, config: MelConfig) -> list[str]:
    """The phone that eSpeak says at the centre of each of its first `count` frames by `config`."""
    centres = (np.arange(count) + 0.5) * config.hop_length * spoken.rate / config.sample_rate
    following = np.searchsorted([phone.start for phone in spoken.phones], centres, side="right")
    return [spoken.phones[n - 1].name if n else PAUSE for n in following]


def warp(source: Frames, target: Frames) -> npt.NDArray[np.int64]:
    """The frame of source (M, L') that sounds as each frame of target (M, L) does: (L,), never falling."""
    from librosa.sequence import dtw  # seconds to import, and seldom needed

    _, path = dtw(cepstra(source), cepstra(target))  # (steps, 2), from the end
    first = np.full(target.shape[1], source.shape[1])
    last = np.zeros_like(first)
    np.minimum.at(first, path[:, 1], path[:, 0])
    np.maximum.at(last, path[:, 1], path[:, 0])
    return (first + last) // 2


def _between_pauses(mel: Frames) -> Frames:
    """Log-mel (M, L) -> (M, L + 2): eSpeak begins at once, but a recording may not."""
    return np.pad(mel, ((0, 0), (1, 1)), constant_values=mel.max() - RANGE)


def cepstra(mel: Frames) -> Frames:
    """Cepstral coefficients of a log-mel (M, L), less their means over time: (CEPSTRA, L).

    So neither level nor microphone counts. Those left out are mostly pitch.
    """
    from torchaudio.functional import create_dct  # heavy

    basis = create_dct(CEPSTRA, len(mel), norm="ortho").numpy()  # (M, CEPSTRA)
    coefficients = basis.T @ np.maximum(mel, mel.max() - RANGE)
    return coefficients - coefficients.mean(axis=1, keepdims=True)
