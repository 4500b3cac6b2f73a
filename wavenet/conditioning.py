"""What the network is told beside its own past: a mel-spectrogram (local) and a speaker (global)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LOOK_AHEAD = 2  # frames: two convolutions of three frames. Interpolation reads one frame more.
MARGIN = LOOK_AHEAD + 1  # extra mel frames on each side with which a crop's condition equals the whole clip's

_MEL_CENTRE, _MEL_SPREAD = -5.0, 2.5  # log-mels of speech, roughly standardised


class Conditioner(nn.Module):
    """Mel and speaker -> condition at frame rate, (B, L, context).

    Two convolutions over frames with leaky ReLUs (a saturating non-linearity here makes a student ignore the mel), plus
    a learnt embedding of the speaker. Edge frames are repeated beyond the ends of the mel. With a speaker
    alone the condition is one frame, constant in time.

    Args:
        n_mels: bands, or 0 for no mel.
        n_speakers: or 0 for no speaker.
        context: channels of the condition.
    """

    def __init__(self, n_mels: int, n_speakers: int, context: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(n_mels, context, kernel_size=3) if n_mels else None
        self.second = nn.Conv1d(context, context, kernel_size=3) if n_mels else None
        self.speaker = nn.Embedding(n_speakers, context) if n_speakers else None
        for conv in (self.first, self.second):
            if conv is not None:
                assert conv.bias is not None
                nn.init.kaiming_normal_(conv.weight, a=0.4)
                nn.init.zeros_(conv.bias)

    def forward(self, mel: Tensor | None, speaker: Tensor | None) -> Tensor | None:
        """mel (B, M, L), speaker (B,) -> (B, L, context), (B, 1, context), or None where there is no condition.

        Raises:
            ValueError: the model reads a mel or a speaker that is not given, or the speaker is unknown.
        """
        if mel is not None:
            mel = F.pad(mel, (LOOK_AHEAD, LOOK_AHEAD), mode="replicate")
        return self._read(mel, speaker)

    def window(self, mel: Tensor | None, speaker: Tensor | None, start: int, stop: int) -> Tensor | None:
        """Frames start..stop of what `forward` gives, at the cost of these alone; the first and the last frame go on
        beyond the ends, as they do in `interpolate_frames`. A constant condition stays one frame.
        """
        if mel is None or self.first is None:
            return self(mel, speaker)
        reads, frames = window_of(mel, start, stop, LOOK_AHEAD, LOOK_AHEAD)
        cond = self._read(mel[:, :, reads], speaker)
        assert cond is not None
        return cond[:, frames]

    def _read(self, padded: Tensor | None, speaker: Tensor | None) -> Tensor | None:
        """mel (B, M, LOOK_AHEAD + L + LOOK_AHEAD), speaker (B,) -> as `forward`"""
        cond = None
        if self.first is not None and self.second is not None:
            if padded is None:
                raise ValueError("this model is conditioned on a mel-spectrogram, but none was given: pass mel")
            frames = F.leaky_relu(self.first(standardised(padded)), 0.4)
            frames = F.leaky_relu(self.second(frames), 0.4)
            cond = frames.transpose(1, 2)  # (B, L, context)
        if self.speaker is not None:
            voice = self.speaker(self._known(speaker, self.speaker.num_embeddings))[:, None]  # (B, 1, context)
            cond = voice if cond is None else cond + voice
        return cond

    @staticmethod
    def _known(speaker: Tensor | None, count: int) -> Tensor:
        if speaker is None:
            raise ValueError(f"this model has {count} speakers, but none was chosen: pass speaker, 0..{count - 1}")
        if speaker.numel() and not 0 <= int(speaker.min()) <= int(speaker.max()) < count:
            raise ValueError(f"speaker {speaker.tolist()} is unknown: this model has speakers 0..{count - 1}")
        return speaker


def standardised(mel: Tensor) -> Tensor:
    """A log-mel of speech with a mean near 0 and a deviation near 1."""
    return (mel - _MEL_CENTRE) / _MEL_SPREAD


def window_of(mel: Tensor, start: int, stop: int, back: int, ahead: int) -> tuple[Tensor, Tensor]:
    """Which frames of a mel (B, M, L) a network reads that looks so far back and ahead, to compute those of the window
    that exist; and which of the computed ones are frames start .. stop, where the first and the last one go on.
    """
    last, inside = mel.shape[2] - 1, range(max(start, 0), min(stop, mel.shape[2]))
    reads = torch.arange(inside.start - back, inside.stop + ahead, device=mel.device).clamp(0, last)
    return reads, torch.arange(start, stop, device=mel.device).clamp(0, last) - inside.start


def check_condition(mel: Tensor | None, length: int, hop: int, margin: int) -> None:
    """Refuses a mel whose frames do not span the waveform.

    Raises:
        ValueError: mel (B, M, L) with L hop != length + 2 margin hop.
    """
    if mel is not None and (mel.shape[-1] - 2 * margin) * hop != length:
        raise ValueError(
            f"{mel.shape[-1]} mel frames, of which {margin} on each side are margin, span "
            f"{(mel.shape[-1] - 2 * margin) * hop} samples at hop {hop}, but the waveform has {length}"
        )


def speaker_index(name: str | None, speakers: list[str]) -> Tensor | None:
    """The index (1,) of a speaker's name, None for a model of one speaker.

    Raises:
        ValueError: an unknown name; none named where there are several.
    """
    if len(speakers) <= 1:
        if name is not None and name not in speakers:
            raise ValueError(f"speaker {name!r} is unknown: this model has one speaker; leave it out")
        return None
    if name is None:
        raise ValueError(f"this model has {len(speakers)} speakers: choose one of {', '.join(speakers)}")
    if name not in speakers:
        raise ValueError(f"speaker {name!r} is unknown: choose one of {', '.join(speakers)}")
    return torch.tensor([speakers.index(name)])
