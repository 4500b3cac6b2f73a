"""Laws of distillation as a whole: who reads what, where the gradient goes, and which samples count."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from data.dataset import Batch
from data.mel import MelConfig, log_mel
from distill.correction import MelCorrection
from distill.health import diagnose, examine, examine_scales
from distill.losses.contrastive import ContrastiveConfig
from distill.losses.kl import KLConfig, kl_divergence, uniforms
from distill.losses.power import PowerConfig
from distill.objective import DistillationObjective, LossesConfig
from distill.student import Base, Student, StudentSample
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet
from wavenet.objective import Clip
from wavenet.sampling import reference

GAIN = 1.6
MakeTeacher = Callable[[OutputKind], WaveNet]
MakeStudent = Callable[..., Student]
MakeObjective = Callable[..., DistillationObjective]


@pytest.fixture
def make_objective(make_teacher: MakeTeacher, make_student: MakeStudent, mel_config: MelConfig) -> MakeObjective:
    def make(
        kind: OutputKind = OutputKind.mol,
        losses: LossesConfig | None = None,
        initial_scale: float = 0.05,
        clips: list[Clip] | None = None,
    ) -> DistillationObjective:
        teacher = make_teacher(kind)
        nn.init.normal_(teacher.network.last.weight, std=0.1)  # its opinion depends on what it reads
        losses = losses or LossesConfig(KLConfig(draws=10), ContrastiveConfig(), PowerConfig([32, 64], high_edge=1000))
        return DistillationObjective(
            make_student(teacher, initial_scale), teacher, losses, mel_config, GAIN, clips or []
        )

    return make


class Ear:
    """What a module is given and what it returns, call by call."""

    def __init__(self, module: nn.Module) -> None:
        self.heard: list[Tensor] = []
        self.said: list[object] = []
        module.register_forward_hook(self._listen)

    def _listen(self, module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        self.heard.append(inputs[0])
        self.said.append(output)


# What the teacher reads


@pytest.mark.parametrize("kind", OutputKind)
def test_the_teacher_reads_the_students_samples_as_they_are(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    objective = make_objective(kind, initial_scale=2.0)
    student, teacher, network = Ear(objective.model), Ear(objective.teacher), Ear(objective.teacher.network)
    objective(batch, 0)
    x, again = teacher.heard  # under the clip's condition and under another's
    assert again is x
    said = student.said[0].x
    assert torch.equal(x, said[:, -x.shape[1] :])  # neither clipped nor rounded,
    assert x.untyped_storage().data_ptr() == said.untyped_storage().data_ptr()  # nor copied,
    assert torch.autograd.grad(x.sum(), said)[0].sum() == x.numel()  # nor detached
    assert x.abs().max() > 1 and x.requires_grad
    read = network.heard[0]
    assert torch.equal(read, network.heard[1])
    loudest = x.abs() > 1
    assert (read[loudest].abs() > 1).all()
    assert len(read[loudest].unique()) == len(x[loudest].unique())


@pytest.mark.parametrize("kind", OutputKind)
def test_a_teacher_can_read_what_the_correction_makes_of_the_student(
    make_objective: MakeObjective, batch: Batch, mel_config: MelConfig, kind: OutputKind
) -> None:
    """And its gradient reaches the student as if it had read the student's own."""
    hop = mel_config.hop_length
    losses = LossesConfig(KLConfig(draws=500, corrected=True), ContrastiveConfig(), PowerConfig([32], high_edge=1000))
    objective = make_objective(kind, losses)
    student, teacher = Ear(objective.model), Ear(objective.teacher)
    report = objective(batch, 0)
    heard, said = teacher.heard[0], student.said[0]
    mel = batch.mel[:, :, batch.margin : -batch.margin][:, :, -heard.shape[1] // hop :]
    corrected = GAIN * MelCorrection(mel_config)(said.x / GAIN, mel)
    torch.testing.assert_close(heard, corrected, rtol=0, atol=1e-5)
    assert torch.autograd.grad(heard.sum(), said.x, retain_graph=True)[0].sum() == heard.numel()
    loc = (said.loc + heard - said.x)[:, batch.left - batch.wav.shape[1] :]
    params, distribution = teacher.said[0], objective.teacher.distribution
    log_scale = said.log_scale[:, -loc.shape[1] :]
    draws = uniforms(distribution, loc, 500)
    own = kl_divergence(distribution, params[:, -loc.shape[1] :], loc, log_scale, objective.model.config.base, draws)
    torch.testing.assert_close(report.terms["kl"], own.kl.mean().detach(), rtol=0.02, atol=0)


def test_a_student_of_no_mel_is_heard_as_it_is(make_objective: MakeObjective, batch: Batch) -> None:
    losses = LossesConfig(KLConfig(corrected=True), ContrastiveConfig(0.0), PowerConfig([32, 64], high_edge=1000))
    objective = make_objective(losses=losses)
    teacher = WaveNet(replace(objective.teacher.config, n_mels=0))
    student = Student(replace(objective.model.config, n_mels=0))
    objective = DistillationObjective(student, teacher, losses, objective.log_mel.config, GAIN, [])
    said, heard = Ear(objective.model), Ear(objective.teacher)
    objective(batch, 0)
    assert torch.equal(heard.heard[0], said.said[0].x)


def test_more_draws_resample_the_present_and_leave_the_past(make_objective: MakeObjective, batch: Batch) -> None:
    objective = make_objective()
    pasts, terms = [], []
    for draws in (5, 50):
        objective.losses.kl.draws = draws
        ear = Ear(objective.teacher)
        torch.manual_seed(3)
        terms.append(objective(batch, 0).terms)
        pasts.append(ear.heard[0])
    assert torch.equal(*pasts)
    assert terms[0]["cross_entropy"] != terms[1]["cross_entropy"]
    assert terms[0]["entropy"] == terms[1]["entropy"]
    assert terms[0]["spectral_convergence"] == terms[1]["spectral_convergence"]


def test_the_teachers_parameters_are_for_the_sample_that_the_student_draws(make_teacher: MakeTeacher) -> None:
    """A student whose loc and scale are the teacher's own, at every t, diverges by nothing; shifted by one it does."""
    teacher = make_teacher(OutputKind.gaussian).double()
    nn.init.normal_(teacher.network.last.weight, std=0.3)
    mel = torch.randn(1, teacher.config.n_mels, 4, dtype=torch.float64)
    noise = torch.randn(1, 64, 1, dtype=torch.float64)
    frames = teacher.network.project(teacher.conditioner(mel, None))
    x = reference.sample(teacher, frames, noise, reference.initial_state(teacher, 1))
    said = reference.parameters(teacher, frames, x, reference.initial_state(teacher, 1))
    loc, log_scale = teacher.distribution.components(said)
    torch.testing.assert_close(noise[..., 0] * log_scale.exp() + loc, x)
    params = teacher(x, mel)
    aligned = kl_divergence(teacher.distribution, params, loc, log_scale, Base.normal, None).kl
    shifted = kl_divergence(teacher.distribution, params.roll(1, dims=1), loc, log_scale, Base.normal, None).kl
    assert aligned.abs().max() < 1e-9
    assert shifted.mean() > 1e-3


# Where the gradient goes


def _gradient(student: Student) -> float:
    grads = [param.grad for param in student.parameters() if param.grad is not None]
    return sum(grad.abs().sum().item() for grad in grads)


@pytest.mark.parametrize("kind", OutputKind)
def test_every_weight_of_the_student_gets_a_gradient_and_none_of_the_teacher(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    objective = make_objective(kind)
    before = {name: weight.clone() for name, weight in objective.teacher.state_dict().items()}
    report = objective(batch, 0)
    report.loss.backward()
    for name, param in objective.model.named_parameters():
        assert param.grad is not None and param.grad.isfinite().all(), name
    assert all(param.grad is None and not param.requires_grad for param in objective.teacher.parameters())
    assert all(torch.equal(before[name], weight) for name, weight in objective.teacher.state_dict().items())


@pytest.mark.parametrize("kind", OutputKind)
def test_gradient_flows_through_the_frozen_teacher_and_through_the_present_sample(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    objective = make_objective(kind)
    student, teacher = objective.model, objective.teacher
    for through_teacher in (True, False):
        student.zero_grad()
        sample = student(student.config.base.draw(batch.wav), batch.mel, batch.speaker, batch.margin)
        params = teacher(sample.x, batch.mel, batch.speaker, batch.margin)
        loc, log_scale = sample.loc, sample.log_scale
        if through_teacher:
            loc, log_scale = loc.detach(), log_scale.detach()
        else:
            params = params.detach()
        draws = uniforms(teacher.distribution, loc, 10)
        kl_divergence(teacher.distribution, params, loc, log_scale, student.config.base, draws).kl.mean().backward()
        assert _gradient(student) > 0


@pytest.mark.parametrize("kind", OutputKind)
def test_the_divergence_alone_teaches_through_the_past_that_the_teacher_reads(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    """Without the gradient of x_<t the student would learn something else."""
    losses = LossesConfig(KLConfig(draws=10), ContrastiveConfig(0.0), SILENT)
    objective = make_objective(kind, losses)
    slopes = []
    for detached in (False, True):
        with objective.teacher.register_forward_pre_hook(
            lambda module, inputs, detached=detached: (inputs[0].detach() if detached else inputs[0], *inputs[1:])
        ):
            torch.manual_seed(1)
            loss = objective(batch, 0).loss
        gradient = torch.autograd.grad(loss, list(objective.model.parameters()))
        slopes.append(torch.cat([slope.flatten() for slope in gradient]))
    assert (slopes[0] - slopes[1]).norm() > 1e-4 * slopes[1].norm()  # two equal ones differ by 0


@pytest.mark.parametrize("kind", OutputKind)
def test_below_its_edge_the_divergence_teaches_nothing_and_is_the_same(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    quiet = replace(SILENT, mean_weight=1e-9)  # something has to teach what lies below
    slopes, terms = [], []
    for edge in (0.0, 1000.0):  # of 2000 Hz that there are
        torch.manual_seed(0)
        objective = make_objective(kind, LossesConfig(KLConfig(draws=10, edge=edge), ContrastiveConfig(), quiet))
        student = Ear(objective.model)
        torch.manual_seed(1)
        report = objective(batch, 0)
        (slope,) = torch.autograd.grad(report.loss, student.said[0].x)
        slopes.append(torch.fft.rfft(slope * torch.hann_window(slope.shape[1])).abs().square().mean(dim=0))
        terms.append(report.terms)
    assert terms[0] == terms[1]
    low = len(slopes[0]) * 7 // 20  # 700 Hz
    whole, high = (float(slope[:low].sum() / slope.sum()) for slope in slopes)
    assert high < 0.05 * whole


def test_no_teacher_is_narrower_in_the_divergence_than_its_floor(make_objective: MakeObjective, batch: Batch) -> None:
    terms = []
    for floor in (None, -20.0, -3.5):  # the teacher's own is -7
        losses = LossesConfig(KLConfig(floor=floor), ContrastiveConfig(0.0), SILENT)
        torch.manual_seed(0)
        objective = make_objective(OutputKind.gaussian, losses)
        with torch.no_grad():
            objective.teacher.network.last.bias[1] = -5.0
        torch.manual_seed(1)
        terms.append(objective(batch, 0).terms)
        torch.manual_seed(1)
        sample = _whole_window(objective, batch)
    assert terms[0] == terms[1]
    teacher = objective.teacher
    with torch.no_grad():
        params = teacher(sample.x, batch.mel, batch.speaker, batch.margin)
        params[..., 1] = params[..., 1].clamp(min=-3.5)
        kl = kl_divergence(teacher.distribution, params, sample.loc, sample.log_scale, Base.normal, None).kl
    torch.testing.assert_close(terms[2]["kl"], kl[:, batch.left :].mean())
    assert terms[2]["kl"] < 0.5 * terms[0]["kl"]


# Which samples count


@pytest.mark.parametrize("kind", OutputKind)
def test_the_real_audio_of_the_left_context_does_not_count(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    objective = make_objective(kind)
    other = batch.wav.clone()
    other[:, : batch.left] = torch.randn_like(other[:, : batch.left])
    reports = []
    for wav in (batch.wav, other):
        torch.manual_seed(1)
        reports.append(objective(replace(batch, wav=wav), 0))
    assert torch.equal(reports[0].loss, reports[1].loss)
    assert objective.samples(batch) == batch.wav[:, batch.left :].numel()


def _whole_window(objective: DistillationObjective, batch: Batch) -> StudentSample:
    """What the student says of the whole window, its left context included."""
    student = objective.model
    return student(student.config.base.draw(batch.wav), batch.mel, batch.speaker, batch.margin)


def test_divergence_counts_the_samples_after_the_left_context_alone(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective(OutputKind.gaussian)
    teacher = Ear(objective.teacher)
    torch.manual_seed(1)
    terms = objective(batch, 0).terms
    assert teacher.heard[0].shape[1] < batch.wav.shape[1]  # its receptive field, not the student's besides
    torch.manual_seed(1)
    sample = _whole_window(objective, batch)
    with torch.no_grad():
        params = objective.teacher(sample.x, batch.mel, batch.speaker, batch.margin)
    distribution = objective.teacher.distribution
    kl = kl_divergence(distribution, params, sample.loc, sample.log_scale, Base.normal, None).kl
    torch.testing.assert_close(terms["kl"], kl[:, batch.left :].mean().detach())


def test_with_the_full_reach_as_left_context_the_start_of_the_window_does_not_matter(
    make_objective: MakeObjective, batch: Batch
) -> None:
    """Student's reach plus teacher's: what was before the window cannot be told from zeros."""
    objective = make_objective(OutputKind.gaussian)
    reach = objective.model.receptive_field + objective.teacher.receptive_field
    assert reach <= batch.left
    student, teacher = objective.model, objective.teacher
    z = torch.randn_like(batch.wav)
    other = z.clone()
    other[:, : batch.left - reach] = torch.randn_like(other[:, : batch.left - reach])
    params = [
        teacher(student(noise, batch.mel, None, batch.margin).x, batch.mel, None, batch.margin) for noise in (z, other)
    ]
    torch.testing.assert_close(params[0][:, batch.left :], params[1][:, batch.left :], rtol=0, atol=1e-6)


# Terms


SPECTRAL = {
    f"spectral_{name}" for name in ("convergence", "log_magnitude", "mean_power", "low_band", "high_band", "mel")
}
DIVERGENCE = {"kl", "kl_clipped", "cross_entropy", "entropy"}
CONTRAST = {"kl_other", "contrast"}
SILENT = PowerConfig([32], frame_weight=0.0, mean_weight=0.0, high_weight=0.0, low_weight=0.0, mel_weight=0.0)


@pytest.mark.parametrize("kind", OutputKind)
def test_the_loss_is_the_weighted_sum_of_its_named_terms(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    losses = LossesConfig(
        KLConfig(0.7, 10, regulariser=3.0, clip=1e-4),
        ContrastiveConfig(0.4, bound=1.5),
        PowerConfig([32, 64], 2.0, 0.3, high_weight=5.0, high_edge=1000, low_weight=0.6, mel_weight=0.2),
    )
    report = make_objective(kind, losses)(batch, 0)
    t = report.terms
    assert set(t) == SPECTRAL | DIVERGENCE | CONTRAST | (
        {"scale_regulariser"} if kind is OutputKind.gaussian else set()
    )
    assert not any(term.requires_grad for term in t.values())
    torch.testing.assert_close(t["kl"], t["cross_entropy"] - t["entropy"])
    assert t["kl_clipped"] < t["kl"] and 0 < t["contrast"] < 1.5 + 1e-6
    expected = 0.7 * (t["kl_clipped"] + 3.0 * t.get("scale_regulariser", torch.zeros(())) - 0.4 * t["contrast"])
    expected += 2.0 * (t["spectral_convergence"] + t["spectral_log_magnitude"])
    expected += 0.3 * t["spectral_mean_power"] + 5.0 * t["spectral_high_band"]
    expected += 0.6 * t["spectral_low_band"] + 0.2 * t["spectral_mel"]
    torch.testing.assert_close(report.loss.detach(), expected)


def test_without_its_weight_the_teacher_is_not_asked(make_objective: MakeObjective, batch: Batch) -> None:
    losses = LossesConfig(KLConfig(weight=0.0), ContrastiveConfig(0.0), PowerConfig([32, 64], high_edge=1000))
    objective = make_objective(losses=losses)
    ear = Ear(objective.teacher)
    assert set(objective(batch, 0).terms) == SPECTRAL
    assert not ear.heard


def test_without_its_weights_the_spectrum_is_left_out(make_objective: MakeObjective, batch: Batch) -> None:
    losses = LossesConfig(KLConfig(draws=5), ContrastiveConfig(0.0), SILENT)
    assert set(make_objective(losses=losses)(batch, 0).terms) == DIVERGENCE


@pytest.mark.parametrize("band", ["low", "high"])
def test_without_its_weight_a_band_is_left_out(make_objective: MakeObjective, batch: Batch, band: str) -> None:
    power = PowerConfig([32], high_edge=1000)
    setattr(power, f"{band}_weight", 0.0)
    losses = LossesConfig(KLConfig(draws=5), ContrastiveConfig(0.0), power)
    assert set(make_objective(losses=losses)(batch, 0).terms) == DIVERGENCE | SPECTRAL - {f"spectral_{band}_band"}


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (
            (KLConfig(weight=0.0), ContrastiveConfig(0.0), SILENT),
            "every weight of the loss is 0",
        ),
        (
            (KLConfig(begin=5), ContrastiveConfig(), SILENT),
            "nothing is learnt before kl.begin=5",
        ),
        (
            (KLConfig(end=5), ContrastiveConfig(), SILENT),
            "nothing is learnt from kl.end=5 on",
        ),
        (
            (KLConfig(edge=1500.0), ContrastiveConfig(), SILENT),
            "nothing is learnt below kl.edge=1500",
        ),
        (
            (KLConfig(corrected=True), ContrastiveConfig(), SILENT),
            "nothing is learnt of the level with kl.corrected",
        ),
        ((KLConfig(weight=0.0), ContrastiveConfig(0.3), PowerConfig()), "contrastive.weight is 0.3"),
    ],
)
def test_losses_that_make_no_sense_together_are_refused(losses: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossesConfig(*losses)


def test_an_edge_beyond_the_corpus_is_refused(make_objective: MakeObjective) -> None:
    losses = LossesConfig(KLConfig(edge=2000.0), ContrastiveConfig(), PowerConfig([32, 64], high_edge=1000))
    with pytest.raises(ValueError, match=r"kl\.edge is 2000 Hz, and nothing lies above it at 4000 Hz"):
        make_objective(losses=losses)


def test_a_high_band_beyond_the_corpus_is_refused(make_objective: MakeObjective) -> None:
    with pytest.raises(ValueError, match="see nothing above it at 4000 Hz"):
        make_objective(losses=LossesConfig())


# The schedule of the divergence


def test_before_its_step_and_after_its_end_the_divergence_is_left_out_and_the_teacher_not_asked(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective()
    objective.losses.kl = KLConfig(draws=10, begin=5, ramp=2, end=8)
    ear, reports = Ear(objective.teacher), []
    for step in (4, 5, 6, 7, 8):
        torch.manual_seed(1)
        reports.append(objective(batch, step))
        assert len(ear.heard) == 2 * (min(step, 7) - 4)
    assert set(reports[0].terms) == set(reports[-1].terms) == SPECTRAL
    spectral, half, whole, later, after = (report.loss.item() for report in reports)
    assert after == spectral
    assert half - spectral == pytest.approx((whole - spectral) / 2, rel=1e-4)
    assert later == whole


@torch.no_grad()
def test_validation_counts_the_whole_loss_whatever_the_step(make_objective: MakeObjective, batch: Batch) -> None:
    objective = make_objective()
    losses = []
    for begin in (0, 10**6):
        objective.losses.kl = KLConfig(draws=10, begin=begin)
        torch.manual_seed(1)
        losses.append(objective.validate(batch)["loss"])
    assert losses[0] == losses[1]


# The contrast


@pytest.mark.parametrize("kind", OutputKind)
def test_to_a_teacher_that_ignores_the_mel_both_conditions_are_one(
    make_objective: MakeObjective, batch: Batch, kind: OutputKind
) -> None:
    """On the same draws, so that the two divergences are equal to the last digit."""
    objective = make_objective(kind)
    listening = objective(batch, 0).terms
    assert listening["kl_other"] != listening["kl"]
    with torch.no_grad():
        for block in objective.teacher.network.blocks:
            block.condition.weight.zero_()
    deaf = objective(batch, 0).terms
    assert deaf["kl_other"] == deaf["kl"]


def test_the_teacher_hears_the_same_sample_under_the_mel_of_the_other_clip(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective()
    conditions = Ear(objective.teacher.conditioner)
    objective(batch, 0)
    own, other = conditions.heard
    assert torch.equal(other, own.flip(0)) and not torch.equal(other, own)


def test_the_contrast_leaves_the_divergence_and_the_draws_as_they_are(
    make_objective: MakeObjective, batch: Batch
) -> None:
    terms = []
    for weight in (0.0, 0.3):
        torch.manual_seed(0)
        objective = make_objective()
        objective.losses.contrastive.weight = weight
        torch.manual_seed(1)
        report = objective(batch, 0)
        report.loss.backward()
        terms.append((report.terms, _gradient(objective.model)))
    assert terms[0][0]["kl"] == terms[1][0]["kl"]
    assert terms[0][1] != terms[1][1]


def test_a_student_that_does_not_fit_is_refused(
    make_teacher: MakeTeacher, make_student: MakeStudent, mel_config
) -> None:
    student = make_student(make_teacher(OutputKind.mol))
    with pytest.raises(ValueError, match="set base=normal"):
        DistillationObjective(student, make_teacher(OutputKind.gaussian), LossesConfig(), mel_config, GAIN, [])


# Training


@pytest.mark.parametrize("kind", OutputKind)
def test_a_few_steps_reduce_the_loss(make_objective: MakeObjective, batch: Batch, kind: OutputKind) -> None:
    objective = make_objective(kind, initial_scale=0.2)
    optimizer = torch.optim.Adam(objective.model.parameters(), lr=5e-3)
    losses = []
    for step in range(25):
        torch.manual_seed(step)
        report = objective(batch, step)
        optimizer.zero_grad()
        report.loss.backward()
        optimizer.step()
        losses.append(report.loss.item())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


def test_the_same_seed_gives_the_same_loss_and_another_seed_another(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective()
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(objective(batch, 0).loss.item())
    assert values[0] == values[1] != values[2]


def test_under_autocast_the_waveform_keeps_its_precision_and_the_losses_stay_float32(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective()
    ear = Ear(objective.teacher)
    reports = []
    for enabled in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            reports.append(objective(batch, 0))
    exact, rounded = ear.heard[0], ear.heard[2]  # each twice, for the contrast
    assert rounded.dtype == torch.float32
    assert not torch.equal(rounded, rounded.bfloat16().float())
    torch.testing.assert_close(rounded, exact, rtol=0, atol=5e-3)
    for name, value in reports[1].terms.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, reports[0].terms[name], rtol=0.02, atol=0.02)


def test_the_teacher_stays_in_eval_mode(make_objective: MakeObjective) -> None:
    objective = make_objective().train()
    assert objective.model.training and not objective.teacher.training


# Validation and listening


@pytest.mark.parametrize("kind", OutputKind)
@torch.no_grad()
def test_validation_adds_the_mel_distance_and_the_bits_of_the_students_audio(
    make_objective: MakeObjective, batch: Batch, mel_config: MelConfig, kind: OutputKind
) -> None:
    objective = make_objective(kind)
    torch.manual_seed(1)
    figures = objective.validate(batch)
    torch.manual_seed(1)
    x = _whole_window(objective, batch).x
    said, real = (log_mel(wav[:, batch.left :] / GAIN, mel_config) for wav in (x, batch.wav))
    assert figures["log_mel_l1"] == pytest.approx((said - real).abs().mean().item(), rel=1e-5)
    assert figures["spectral_mel"] == figures["log_mel_l1"]
    params = objective.teacher(x, batch.mel, batch.speaker, batch.margin)[:, batch.left :]
    bits = objective.teacher.distribution.bits(params, x[:, batch.left :], GAIN).mean()
    assert figures["bits"] == pytest.approx(bits.item(), rel=1e-5)
    torch.manual_seed(1)
    report = objective(batch, 0)
    assert figures["loss"] == pytest.approx(report.loss.item(), rel=1e-5)
    assert set(report.terms) < set(figures)


@torch.no_grad()
def test_validation_tells_the_health_and_what_the_recording_costs(make_objective: MakeObjective, batch: Batch) -> None:
    objective = make_objective()
    torch.manual_seed(1)
    figures = objective.validate(batch)
    params = objective.teacher(
        objective.teacher.distribution.quantise(batch.wav), batch.mel, batch.speaker, batch.margin
    )[:, batch.left :]
    bits = objective.teacher.distribution.bits(params, batch.wav[:, batch.left :], GAIN).mean()
    assert figures["bits_real"] == pytest.approx(bits.item(), rel=1e-2)
    torch.manual_seed(1)
    sample = _whole_window(objective, batch)
    expected = examine(sample.x[:, batch.left :], batch.wav[:, batch.left :], objective.log_mel.config.sample_rate)
    expected |= examine_scales(sample.log_scale[:, batch.left :], batch.wav[:, batch.left :], Base.logistic)
    found = {name.removeprefix("health/"): value for name, value in figures.items() if name.startswith("health/")}
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
    assert objective.remark(figures) == str(diagnose(expected))


@torch.no_grad()
def test_the_bits_of_the_students_audio_are_those_of_a_file_which_clips_at_the_gain(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective(initial_scale=2.0)
    torch.manual_seed(1)
    figures = objective.validate(batch)
    torch.manual_seed(1)
    x = _whole_window(objective, batch).x
    params = objective.teacher(x, batch.mel, batch.speaker, batch.margin)[:, batch.left :]
    bits = [
        objective.teacher.distribution.bits(params, x[:, batch.left :].clamp(-limit, limit), GAIN).mean().item()
        for limit in (GAIN, 1.0, torch.inf)
    ]
    assert figures["bits"] == pytest.approx(bits[0], rel=1e-5)
    assert not any(figures["bits"] == pytest.approx(other, rel=1e-2) for other in bits[1:])


@torch.no_grad()
def test_beyond_the_range_of_mu_law_the_bits_of_the_students_audio_stay_finite(
    make_objective: MakeObjective, batch: Batch
) -> None:
    assert make_objective(OutputKind.mulaw, initial_scale=2.0).validate(batch)["bits"] < 40


@torch.no_grad()
def test_where_all_recordings_are_silent_validation_has_no_health_and_no_verdict(
    make_objective: MakeObjective, batch: Batch
) -> None:
    objective = make_objective()
    figures = objective.validate(replace(batch, wav=torch.zeros_like(batch.wav)))
    assert "bits_real" in figures and not any(name.startswith("health/") for name in figures)
    assert objective.remark(figures) == ""


@torch.no_grad()
def test_every_clip_is_heard_as_recorded_and_as_the_student_says_it(
    make_objective: MakeObjective, batch: Batch, mel_config: MelConfig
) -> None:
    whole = Batch(batch.wav[:1], batch.mel[:1], batch.speaker[:1], 0, batch.margin)
    original, student = make_objective(clips=[Clip("hello", whole)]).audition()
    assert (original.name, student.name) == ("hello/original", "hello/student")
    assert original.sample_rate == student.sample_rate == mel_config.sample_rate
    torch.testing.assert_close(torch.from_numpy(original.wav), batch.wav[0] / GAIN)
    assert student.wav.shape == original.wav.shape and abs(student.wav).max() <= 1
