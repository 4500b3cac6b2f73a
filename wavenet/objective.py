"""Maximum likelihood: what teaches the teacher (WaveNet, eq. 1)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from data.dataset import Batch
from wavenet.model import WaveNet
from wavenet.sampling.generate import Backend, generate
from wavenet.training.objective import Audition, LossReport, Objective

COLD_START = 16  # steps
NOISE_RANGE = 1e-3  # of the faintest noise that is read over the loudest


@dataclass
class Clip:
    """A whole utterance that is sampled while training goes on, to be heard and seen in TensorBoard."""

    name: str
    batch: Batch  # of one utterance, left = margin = 0


class TeacherObjective(Objective):
    """-ln p(x_t | x_<t, condition), averaged over the samples after the left context.

    In every COLD_START-th step of training the context counts as well. Its first samples have nothing before them, as
    the first ones that are sampled have not: a teacher that never learnt to begin begins with a crack. The zeros before
    an utterance never count: to one that learnt digital silence, the first sample would be all but certain.

    A model with pitch reads the F0 that was measured, at the phase that the recording's fundamental has.

    Args:
        model: the teacher.
        gain: network level over file level.
        sample_rate: Hz.
        clips: utterances to sample for TensorBoard.
        input_dropout: share of the samples that the network does not get to read in training: it then listens to the
            mel, and its student with it.
        input_noise: level of white noise that the network reads with every clip in training, at most, over that of the
            clip: it then knows what to say after a past that is not quite speech, as its own samples are and its
            student's (injected noise, FFTNet, Jin et al. 2018). Any level from a thousandth of it is as likely, in dB.
    """

    model: WaveNet

    def __init__(
        self,
        model: WaveNet,
        gain: float,
        sample_rate: int,
        clips: list[Clip],
        input_dropout: float = 0.0,
        input_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_noise = input_noise
        self.input_dropout = input_dropout
        self.model = model
        self.gain = gain
        self.sample_rate = sample_rate
        self.clips = clips

    def forward(self, batch: Batch, step: int) -> LossReport:
        """The density is that of the value the model would emit, so that training sees what sampling feeds back."""
        left = 0 if self.model.training and step % COLD_START == 0 else batch.left
        x = self.model.distribution.quantise(batch.wav)
        mel = batch.mel if self.model.config.n_mels else None
        excitation = self.model.excite(mel, batch.f0, batch.margin, batch.wav)
        read = _noisy(x, self.input_noise) if self.model.training and self.input_noise else x
        params = self.model(read, mel, batch.speaker, batch.margin, excitation, self.input_dropout)[:, left:]
        target = x[:, left:]
        with torch.autocast(x.device.type, enabled=False):
            nll = _mean(-self.model.distribution.log_density(params, target), left, batch.padding)
            bits = _mean(self.model.distribution.bits(params.detach(), target, self.gain), left, batch.padding)
        return LossReport(nll, {"nll": nll.detach(), "bits": bits})

    def validate(self, batch: Batch) -> dict[str, float]:
        """`bits` per 16-bit sample of the sound file."""
        return {name: float(value) for name, value in self.forward(batch, 0).terms.items()}

    def samples(self, batch: Batch) -> int:
        return batch.wav[:, batch.left :].numel()

    def audition(self) -> list[Audition]:
        """The clips as the teacher says them, one sample at a time."""
        heard = []
        device = next(self.model.parameters()).device
        for clip in self.clips:
            batch = clip.batch.to(device)
            wav = generate(
                self.model, batch.mel, batch.speaker, seed=0, length=batch.wav.shape[1], backend=Backend.numba
            )
            heard.append(Audition(clip.name, (wav[0] / self.gain).float().cpu().numpy(), self.sample_rate))
        return heard


def _noisy(x: Tensor, most: float) -> Tensor:
    """Waveforms x (B, T) with white noise of up to `most` times their level."""
    level = x.square().mean(1, keepdim=True).sqrt() * most * NOISE_RANGE ** torch.rand(len(x), 1, device=x.device)
    return x + level * torch.randn_like(x)


def _mean(values: Tensor, left: int, padding: Tensor | None) -> Tensor:
    """The mean over the rows of values (B, T - left) of each row's own: of its samples from `left` on, without the
    first padding (B,). So the means of several processes, of as many rows each, are the mean of them all.
    """
    if padding is None:
        return values.mean()
    counted = torch.arange(left, left + values.shape[1], device=values.device) >= padding[:, None]  # (B, T - left)
    return (torch.where(counted, values, 0.0).sum(dim=1) / counted.sum(dim=1)).mean()
