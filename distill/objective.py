"""Probability density distillation: a frozen teacher scores what the student says (arXiv 1711.10433, sections 3, 4)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from data.dataset import Batch
from data.mel import LogMel, MelConfig
from distill.correction import MelCorrection
from distill.fit import check_fit
from distill.health import diagnose, examine, examine_scales
from distill.losses.contrastive import ContrastiveConfig, bounded, other_condition
from distill.losses.kl import KLConfig, clipped, floored, kl_divergence, scale_regulariser, taught_above, uniforms
from distill.losses.perceptual import PerceptualConfig, PerceptualLoss
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
    contrastive: ContrastiveConfig = field(default_factory=ContrastiveConfig)
    power: PowerConfig = field(default_factory=PowerConfig)
    perceptual: PerceptualConfig = field(default_factory=PerceptualConfig)

    def __post_init__(self) -> None:
        against_real = self.power.counts or self.perceptual.weight
        if not self.kl.weight and not against_real:
            raise ValueError("every weight of the loss is 0: set kl.weight, or a weight of power")
        if self.kl.begin and not against_real:
            raise ValueError(f"nothing is learnt before kl.begin={self.kl.begin}: set it to 0, or a weight of power")
        if self.kl.end is not None and not against_real:
            raise ValueError(f"nothing is learnt from kl.end={self.kl.end} on: set it to null, or a weight of power")
        if self.kl.edge and not against_real:
            raise ValueError(f"nothing is learnt below kl.edge={self.kl.edge:g}: set it to 0, or a weight of power")
        if self.kl.corrected and not against_real:
            raise ValueError("nothing is learnt of the level with kl.corrected: set it to false, or a weight of power")
        if self.contrastive.weight and not self.kl.weight:
            raise ValueError(
                f"contrastive.weight is {self.contrastive.weight}, but a part of the divergence, whose weight is 0: "
                "set contrastive.weight to 0 as well, or kl.weight above it"
            )


class DistillationObjective(Objective):
    """Fresh noise for a whole window -> the student's x -> a pass of the teacher over x -> named terms.

    x is neither clipped nor quantised: the teacher reads it as it is, or with what the correction adds
    (`losses.kl.corrected`), and hands back its gradient, or what of it lies above `losses.kl.edge`. The left context of
    the window, where student and teacher still see the zeros before it, is not counted, and computed no further than
    what counts depends on it.

    Args:
        model: the student.
        teacher: takes no gradient and stays in eval mode.
        losses: terms and weights.
        mel: of the corpus, for validation.
        gain: network level over file level.
        clips: utterances that the student speaks for TensorBoard.
        ear: where the perceptual loss has a weight.
    """

    model: Student

    def __init__(
        self,
        model: Student,
        teacher: WaveNet,
        losses: LossesConfig,
        mel: MelConfig,
        gain: float,
        clips: list[Clip],
        ear: PerceptualLoss | None = None,
    ) -> None:
        super().__init__()
        check_fit(model.config, teacher.config)
        self.model = model
        self.teacher = teacher.eval().requires_grad_(False)
        self.losses = losses
        self.judge = floored(teacher.config.output, losses.kl.floor)
        self.edges = losses.power.edges(mel.sample_rate)
        if losses.kl.edge >= mel.sample_rate / 2:
            raise ValueError(
                f"kl.edge is {losses.kl.edge:g} Hz, and nothing lies above it at {mel.sample_rate} Hz: lower it"
            )
        self.edge = losses.kl.edge / mel.sample_rate
        self.correction = MelCorrection(mel) if losses.kl.corrected and teacher.config.n_mels else None
        self.log_mel = LogMel(mel)
        self.gain = gain
        self.clips = clips
        assert ear is not None or not losses.perceptual.weight
        self.ear = ear

    def forward(self, batch: Batch, step: int) -> LossReport:
        sample, weight, parts = self._speak(batch), self.losses.kl.weight_at(step), []
        if weight:
            heard = self._heard(sample, batch)
            parts.append(self._divergence(heard, self._opinions(heard.x, batch), weight))
        return _total([*parts, *self._against_recording(sample.x, batch)])

    def validate(self, batch: Batch) -> dict[str, float]:
        """The loss with all its terms, whatever the step, and of the student's audio:

        log_mel_l1: mean distance of its log-mel from the real one's,
        bits: what a 16-bit sample of it, as the teacher hears it, costs under the teacher once it is clipped, as a
            sound file is, and to what a mu-law teacher knows,
        bits_real: what one of the recording costs, and
        health/...: the figures of `distill.health`, of the recordings that are not silent.
        """
        sample, real, weight = self._speak(batch), _counted(batch), self.losses.kl.weight
        heard = self._heard(sample, batch)
        opinions = self._opinions(heard.x, batch)
        parts = [self._divergence(heard, opinions, weight)] if weight else []
        report = _total([*parts, *self._against_recording(sample.x, batch)])
        x, log_scale, judged = (each[:, -real.shape[1] :] for each in (sample.x, sample.log_scale, heard.x))
        recorded = self.teacher.distribution.quantise(batch.wav)[:, -sample.x.shape[1] :]
        limit = min(self.gain, self.teacher.distribution.limit)
        health = examine(x, real, self.log_mel.config.sample_rate)
        health |= examine_scales(log_scale, real, self.model.config.base)
        figures: dict[str, Tensor | float] = {
            "loss": report.loss,
            **report.terms,
            "log_mel_l1": self._mel_distance(x, real),
            "bits": self._bits(opinions[0], judged.clamp(-limit, limit)),
            "bits_real": self._bits(self._listen(recorded, batch), recorded[:, -real.shape[1] :]),
            **{f"health/{name}": value for name, value in health.items()},
        }
        return {name: float(value) for name, value in figures.items()}

    def remark(self, figures: Mapping[str, float]) -> str:
        """The verdict on the student, and the remedy; none where no recording was to be heard."""
        health = {name.removeprefix("health/"): value for name, value in figures.items()}
        return str(diagnose(health)) if "level_db" in health else ""

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
        excitation = self.model.excite(batch.mel, batch.f0, batch.margin, batch.wav)
        return self.model(z, batch.mel, batch.speaker, batch.margin, keep, excitation)

    def _heard(self, sample: StudentSample, batch: Batch) -> StudentSample:
        """The sample as the teacher hears it: what the correction adds is a constant, to x as to loc."""
        x, loc = (taught_above(self.edge, each) for each in (sample.x, sample.loc))
        if self.correction is not None:
            end = batch.mel.shape[2] - batch.margin
            mel = batch.mel[:, :, end - x.shape[1] // self.log_mel.config.hop_length : end]
            with torch.no_grad():
                added = self.gain * self.correction(sample.x / self.gain, mel) - sample.x
            x, loc = x + added, loc + added
        return StudentSample(x, loc, sample.log_scale)

    def _opinions(self, x: Tensor, batch: Batch) -> list[Tensor]:
        """The teacher's parameters, under the batch's condition and, for the contrast, under another one."""
        conditions = [batch, other_condition(batch)] if self.losses.contrastive.weight else [batch]
        return [self._listen(x, condition) for condition in conditions]

    def _listen(self, x: Tensor, batch: Batch) -> Tensor:
        """The teacher's parameters (B, counted, P) at every sample that counts, given those of x before it."""
        mel = None if batch.mel is None else batch.mel[:, :, self._first_heard(batch) :]
        excitation = self.teacher.excite(batch.mel, batch.f0, batch.margin, batch.wav)
        excitation = None if excitation is None else excitation[:, -x.shape[1] :]
        params = self.teacher(x, mel, batch.speaker, batch.margin, excitation)
        return params[:, -_counted(batch).shape[1] :]

    def _bits(self, params: Tensor, x: Tensor) -> Tensor:
        return self.teacher.distribution.bits(params, x, self.gain).mean()

    def _first_heard(self, batch: Batch) -> int:
        """The frame of the window where the teacher begins: its receptive field before what counts."""
        hop = self.teacher.config.hop_length
        return max(0, batch.left // hop - math.ceil(self.teacher.receptive_field / hop))

    def _divergence(self, heard: StudentSample, opinions: list[Tensor], weight: float) -> LossReport:
        """The KL and its two halves, nats a sample; as it is minimised, clipped and with a Gaussian teacher's
        regulariser; and what the contrast subtracts.
        """
        config, contrastive, base = self.losses.kl, self.losses.contrastive, self.model.config.base
        loc, log_scale = (each[:, -opinions[0].shape[1] :] for each in (heard.loc, heard.log_scale))
        with _exact(heard.x):
            draws = uniforms(self.judge, loc, config.draws)
            own, *others = (kl_divergence(self.judge, params, loc, log_scale, base, draws) for params in opinions)
            terms = {"kl": own.kl.mean(), "cross_entropy": own.cross_entropy.mean(), "entropy": own.entropy.mean()}
            loss = terms["kl_clipped"] = clipped(own.kl, config.clip).mean()
            if isinstance(self.judge, Gaussian):
                terms["scale_regulariser"] = scale_regulariser(self.judge, opinions[0], log_scale).mean()
                loss = loss + config.regulariser * terms["scale_regulariser"]
            for other in others:
                terms["kl_other"] = other.kl.mean()
                terms["contrast"] = bounded(other.kl, contrastive.bound).mean()
                loss = loss - contrastive.weight * terms["contrast"]
        return LossReport(weight * loss, terms)

    def _against_recording(self, x: Tensor, batch: Batch) -> list[LossReport]:
        """How far what counts of x is from the real speech: the distance of the spectra, and what the ear hears."""
        parts, real = [], _counted(batch)
        x = x[:, -real.shape[1] :]
        with _exact(x):
            if self.losses.power.counts:
                parts.append(self._spectral(x, real))
            if self.ear is not None:
                distance = self.ear(x, real)
                parts.append(LossReport(self.losses.perceptual.weight * distance, {"perceptual": distance}))
        return parts

    def _spectral(self, x: Tensor, real: Tensor) -> LossReport:
        """The distance of the spectra: frame by frame, of two bands again, averaged over time, and of the mels."""
        config = self.losses.power
        distance = spectral_distance(x, real, config.fft_sizes, self.edges)
        terms = {f"spectral_{name}": value for name, value in vars(distance).items() if value is not None}
        loss = config.frame_weight * (distance.convergence + distance.log_magnitude)
        loss = loss + config.mean_weight * distance.mean_power
        if distance.low_band is not None:
            loss = loss + config.low_weight * distance.low_band
        if distance.high_band is not None:
            loss = loss + config.high_weight * distance.high_band
        if config.mel_weight:
            terms["spectral_mel"] = self._mel_distance(x, real)
            loss = loss + config.mel_weight * terms["spectral_mel"]
        return LossReport(loss, terms)

    def _mel_distance(self, x: Tensor, real: Tensor) -> Tensor:
        """Mean distance of the log-mels, nats, at the level of the sound file."""
        return (self.log_mel(x / self.gain) - self.log_mel(real / self.gain)).abs().mean()


def _total(parts: list[LossReport]) -> LossReport:
    """The sum, and the terms of all."""
    terms = {name: value.detach() for part in parts for name, value in part.terms.items()}
    return LossReport(torch.stack([part.loss for part in parts]).sum(), terms)


def _exact(x: Tensor) -> torch.autocast:
    """Losses are computed in float32, whatever the networks are."""
    return torch.autocast(x.device.type, enabled=False)


def _counted(batch: Batch) -> Tensor:
    """The real waveform where the loss counts: (B, T - left)."""
    return batch.wav[:, batch.left :]
