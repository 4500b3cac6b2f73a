"""Probability density distillation: a frozen teacher scores what the student says (arXiv 1711.10433, sections 3, 4)."""

import math
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from data.dataset import Batch
from data.mel import LogMel, MelConfig
from distill.fit import check_fit
from distill.losses.kl import KLConfig, kl_divergence, scale_regulariser
from distill.losses.power import PowerConfig, spectral_distance
from distill.student import Student, StudentSample
from wavenet.distributions import Gaussian
from wavenet.model import WaveNet
from wavenet.objective import Clip
from wavenet.training.objective import Audition, LossReport, Objective


@dataclass
class LossesConfig:
    """The terms of the loss and their weights."""

    kl: KLConfig = field(default_factory=KLConfig)
    power: PowerConfig = field(default_factory=PowerConfig)

    def __post_init__(self) -> None:
        if not self.kl.weight and not self.spectral:
            raise ValueError("every weight of the loss is 0: set kl.weight, power.frame_weight or power.mean_weight")

    @property
    def spectral(self) -> bool:
        return bool(self.power.frame_weight or self.power.mean_weight)


class DistillationObjective(Objective):
    """Fresh noise for a whole window -> the student's x -> one pass of the teacher over x -> named terms.

    x is neither clipped nor quantised: the teacher reads it as it is, and hands its gradient back. The left context of
    the window, where student and teacher still see the zeros before it, is not counted, and computed no further than
    what counts depends on it.

    Args:
        model: the student.
        teacher: takes no gradient and stays in eval mode.
        losses: terms and weights.
        mel: of the corpus, for validation.
        gain: network level over file level.
        clips: utterances that the student speaks for TensorBoard.
    """

    model: Student

    def __init__(
        self, model: Student, teacher: WaveNet, losses: LossesConfig, mel: MelConfig, gain: float, clips: list[Clip]
    ) -> None:
        super().__init__()
        check_fit(model.config, teacher.config)
        self.model = model
        self.teacher = teacher.eval().requires_grad_(False)
        self.losses = losses
        self.log_mel = LogMel(mel)
        self.gain = gain
        self.clips = clips

    def forward(self, batch: Batch, step: int) -> LossReport:
        sample = self._speak(batch)
        return self._score(sample, self._listen(sample, batch) if self.losses.kl.weight else None, batch)

    def validate(self, batch: Batch) -> dict[str, float]:
        """The loss and its terms, and of the student's audio:

        log_mel_l1: mean distance of its log-mel from the real one's, and
        bits: what a 16-bit sample of it costs under the teacher once it is clipped, as a sound file is.
        """
        sample = self._speak(batch)
        params = self._listen(sample, batch)
        report = self._score(sample, params, batch)
        real = _counted(batch)
        x = sample.x[:, -real.shape[1] :]
        distance = (self.log_mel(x / self.gain) - self.log_mel(real / self.gain)).abs().mean()
        bits = self.teacher.distribution.bits(params, x.clamp(-1, 1), self.gain).mean()
        figures = {"loss": report.loss, **report.terms, "log_mel_l1": distance, "bits": bits}
        return {name: float(value) for name, value in figures.items()}

    def samples(self, batch: Batch) -> int:
        return _counted(batch).numel()

    def audition(self) -> list[Audition]:
        """Every clip as it was recorded and as the student says it."""
        heard = []
        for clip in self.clips:
            batch = clip.batch.to(next(self.model.parameters()).device)
            for name, wav in (("original", batch.wav), ("student", self._speak(batch).x)):
                file_level = (wav[0] / self.gain).clamp(-1, 1).float().cpu().numpy()  # (T,)
                heard.append(Audition(f"{clip.name}/{name}", file_level, self.log_mel.config.sample_rate))
        return heard

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        self.teacher.eval()
        return self

    def _speak(self, batch: Batch) -> StudentSample:
        """The student under fresh noise for the whole window: what counts, and before it what the teacher hears."""
        z = self.model.config.base.draw(batch.wav)
        keep = z.shape[1] - self._first_heard(batch) * self.teacher.config.hop_length
        excitation = self.model.excite(batch.mel, batch.f0, batch.margin)
        return self.model(z, batch.mel, batch.speaker, batch.margin, keep, excitation)

    def _listen(self, sample: StudentSample, batch: Batch) -> Tensor:
        """The teacher's parameters (B, counted, P) at every sample that counts, given the student's before it."""
        mel = None if batch.mel is None else batch.mel[:, :, self._first_heard(batch) :]
        excitation = self.teacher.excite(batch.mel, batch.f0, batch.margin)
        excitation = None if excitation is None else excitation[:, -sample.x.shape[1] :]
        params = self.teacher(sample.x, mel, batch.speaker, batch.margin, excitation)
        return params[:, -_counted(batch).shape[1] :]

    def _first_heard(self, batch: Batch) -> int:
        """The frame of the window where the teacher begins: its receptive field before what counts."""
        hop = self.teacher.config.hop_length
        return max(0, batch.left // hop - math.ceil(self.teacher.receptive_field / hop))

    def _score(self, sample: StudentSample, params: Tensor | None, batch: Batch) -> LossReport:
        parts, real = [], _counted(batch)
        x, loc, log_scale = (each[:, -real.shape[1] :] for each in (sample.x, sample.loc, sample.log_scale))
        with torch.autocast(sample.x.device.type, enabled=False):
            if params is not None:
                parts.append(self._divergence(loc, log_scale, params))
            if self.losses.spectral:
                parts.append(self._spectral(x, real))
        terms = {name: value.detach() for part in parts for name, value in part.terms.items()}
        return LossReport(torch.stack([part.loss for part in parts]).sum(), terms)

    def _divergence(self, loc: Tensor, log_scale: Tensor, params: Tensor) -> LossReport:
        """The KL and its two halves, nats a sample, and the regulariser of a Gaussian teacher."""
        config, distribution = self.losses.kl, self.teacher.distribution
        one = kl_divergence(distribution, params, loc, log_scale, self.model.config.base, config.draws)
        terms = {"kl": one.kl.mean(), "cross_entropy": one.cross_entropy.mean(), "entropy": one.entropy.mean()}
        loss = terms["kl"]
        if isinstance(distribution, Gaussian):
            terms["scale_regulariser"] = scale_regulariser(distribution, params, log_scale).mean()
            loss = loss + config.regulariser * terms["scale_regulariser"]
        return LossReport(config.weight * loss, terms)

    def _spectral(self, x: Tensor, real: Tensor) -> LossReport:
        """The distance of the spectra, frame by frame and averaged over time."""
        config = self.losses.power
        distance = spectral_distance(x, real, config.fft_sizes)
        terms = {f"spectral_{name}": value for name, value in vars(distance).items()}
        frame_by_frame = distance.convergence + distance.log_magnitude
        return LossReport(config.frame_weight * frame_by_frame + config.mean_weight * distance.mean_power, terms)


def _counted(batch: Batch) -> Tensor:
    """The real waveform where the loss counts: (B, T - left)."""
    return batch.wav[:, batch.left :]
