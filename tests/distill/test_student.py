"""Laws of the student: its noise, its one pass, its density, and what it takes from a teacher."""

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from distill.fit import base_for, check_fit, initialise_from_teacher, student_config
from distill.student import Base, Student, StudentConfig, StudentSize, load_student
from wavenet.checkpoint import CheckpointError, Description, save_description, save_weights
from wavenet.conditioning import MARGIN
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet, WaveNetConfig

PRESETS = sorted((Path(__file__).parents[2] / "configs" / "student").glob("*.yaml"))
LOGISTIC_DEVIATION = math.pi / math.sqrt(3)  # of the standard logistic
MakeTeacher = Callable[[OutputKind], WaveNet]
MakeStudent = Callable[..., Student]


@pytest.fixture
def student(make_teacher: MakeTeacher, make_student: MakeStudent) -> Student:
    return make_student(make_teacher(OutputKind.mol), lively=True).double()


@pytest.fixture
def mel(student: Student) -> Tensor:
    return torch.randn(2, student.config.n_mels, 4, dtype=torch.float64)


# The noise


@pytest.mark.parametrize("base", Base)
@given(seed=st.integers(0, 2**63), start=st.integers(0, 20_000), length=st.integers(0, 300), cut=st.integers(0, 300))
def test_noise_is_a_pure_function_of_seed_and_sample(base: Base, seed: int, start: int, length: int, cut: int) -> None:
    cut = min(cut, length)
    whole = base.noise(seed, start, length)
    pieces = torch.cat([base.noise(seed, start, cut), base.noise(seed, start + cut, length - cut)])
    assert whole.dtype == torch.float64 and whole.shape == (length,)
    assert torch.equal(whole, pieces)


@pytest.mark.parametrize("base", Base)
def test_noise_and_fresh_draws_follow_the_base_density(base: Base) -> None:
    grid = torch.linspace(-60, 60, 200_001, dtype=torch.float64)
    density = base.log_density(grid).exp()
    assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-9)
    second, fourth = (torch.trapezoid(density * grid**power, grid).item() for power in (2, 4))
    for sample in (base.noise(3, 0, 200_000), base.draw(torch.empty(200_000, dtype=torch.float64))):
        error = math.sqrt((fourth - second**2) / len(sample))
        assert abs(sample.square().mean().item() - second) < 4 * error
        assert abs(sample.mean().item()) < 4 * math.sqrt(second / len(sample))
        assert sample.isfinite().all()


@pytest.mark.parametrize("base", Base)
def test_the_scale_of_any_noise_that_is_as_loud_as_logistic_noise(base: Base) -> None:
    loudness = [
        (scale * noise.draw(torch.empty(200_000, dtype=torch.float64))).std()
        for noise, scale in ((base, base.as_logistic(0.05)), (Base.logistic, 0.05))
    ]
    torch.testing.assert_close(loudness[0], loudness[1], rtol=0.02, atol=0)


# One pass


@pytest.mark.parametrize("kind", OutputKind)
@pytest.mark.parametrize("scale", [0.02, 0.3])
def test_a_fresh_student_speaks_at_the_initial_scale(make_teacher: MakeTeacher, kind: OutputKind, scale: float) -> None:
    config = student_config(StudentSize([10, 10, 10], residual=32, gate=64), make_teacher(kind).config, scale)
    student = Student(config)
    mel = torch.randn(2, config.n_mels, 100)
    x = student.generate(mel)
    deviation = x.std().item() / (1 if config.base is Base.normal else LOGISTIC_DEVIATION)
    assert deviation == pytest.approx(scale, rel=0.25)


def test_every_utterance_of_a_batch_speaks_from_its_own_seed(student: Student, mel: Tensor) -> None:
    batch = student.generate(mel, seed=5)
    for row in range(2):
        torch.testing.assert_close(batch[row : row + 1], student.generate(mel[row : row + 1], seed=5 + row))
    assert not torch.allclose(student.generate(mel, seed=6), batch)


def test_generation_is_one_forward_pass_over_the_seeds_noise(student: Student, mel: Tensor) -> None:
    z = torch.stack([student.noise(7, 0, 64), student.noise(8, 0, 64)])
    x = student.generate(mel, seed=7)
    assert not x.requires_grad
    torch.testing.assert_close(x, student(z, mel).x)
    torch.testing.assert_close(x, student.generate(mel, noise=z))


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.3])
def test_temperature_multiplies_the_noise(student: Student, mel: Tensor, temperature: float) -> None:
    z = torch.stack([student.noise(0, 0, 64), student.noise(1, 0, 64)])
    warm = student.generate(mel, temperature=temperature)
    torch.testing.assert_close(warm, student.generate(mel, noise=temperature * z))


def test_another_speaker_makes_another_waveform_of_the_same_noise(student: Student, mel: Tensor) -> None:
    config = replace(student.config, n_speakers=3)
    student = Student(config).double()
    first, second = (student.generate(mel[:1], torch.tensor([speaker])) for speaker in (0, 2))
    assert not torch.allclose(first, second)
    with pytest.raises(ValueError, match="3 speakers"):
        student.generate(mel)


def test_the_reach_is_the_receptive_field_exactly(student: Student, mel: Tensor) -> None:
    z = torch.randn(1, 64, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(student(z, mel[:1]).x[0, 50], z)
    read = gradient[0].nonzero()[:, 0]
    assert int(read.max()) == 50
    assert int(read.min()) == 50 - student.receptive_field


def test_a_window_with_margin_and_left_context_equals_the_whole(student: Student) -> None:
    hop, first, last = student.config.hop_length, 6, 9
    reach = -(-student.receptive_field // hop)  # frames
    mel = torch.randn(1, student.config.n_mels, 16, dtype=torch.float64)
    z = torch.randn(1, 16 * hop, dtype=torch.float64)
    begin = first - reach
    assert begin >= MARGIN
    window = student(z[:, begin * hop : last * hop], mel[..., begin - MARGIN : last + MARGIN], None, MARGIN)
    torch.testing.assert_close(window.x[:, reach * hop :], student(z, mel).x[:, first * hop : last * hop])


# The density of any waveform


@pytest.mark.parametrize("kind", OutputKind)
def test_inverse_recovers_the_noise(make_teacher: MakeTeacher, make_student: MakeStudent, kind: OutputKind) -> None:
    student = make_student(make_teacher(kind), lively=True).double()
    mel = torch.randn(2, student.config.n_mels, 3 + 2 * MARGIN, dtype=torch.float64)
    z = student.config.base.draw(torch.empty(2, 48, dtype=torch.float64))
    x = student(z, mel, None, MARGIN).x
    torch.testing.assert_close(student.inverse(x, mel, None, MARGIN), z, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", OutputKind)
def test_log_prob_is_the_change_of_variables(
    make_teacher: MakeTeacher, make_student: MakeStudent, kind: OutputKind
) -> None:
    student = make_student(make_teacher(kind), lively=True).double()
    mel = torch.randn(1, student.config.n_mels, 1, dtype=torch.float64)
    z = student.config.base.draw(torch.empty(1, 16, dtype=torch.float64))
    jacobian = torch.autograd.functional.jacobian(lambda row: student(row[None], mel).x[0], z[0])
    expected = student.config.base.log_density(z).sum() - torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(student.log_prob(student(z, mel).x, mel).sum(), expected)


def test_the_density_of_one_sample_integrates_to_one(student: Student) -> None:
    mel = torch.randn(1, student.config.n_mels, 1, dtype=torch.float64)
    past = student.generate(mel)[:, :15]
    grid = torch.linspace(-6, 6, 6001, dtype=torch.float64)
    x = torch.cat([past.expand(len(grid), -1), grid[:, None]], dim=1)  # (6001, 16)
    last = student.log_prob(x, mel.expand(len(grid), -1, -1))[:, -1]
    assert torch.trapezoid(last.exp(), grid).item() == pytest.approx(1, abs=1e-6)


# What is refused


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_negative_or_infinite_temperature_is_refused(student: Student, mel: Tensor, temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature is"):
        student.generate(mel, temperature=temperature)


def test_generation_needs_a_length() -> None:
    student = Student(StudentConfig([2], 2, 3, 4, 8, context=4, n_mels=0))
    with pytest.raises(ValueError, match="pass noise"):
        student.generate(None)
    assert student.generate(None, noise=torch.zeros(3, 10)).shape == (3, 10)


def test_a_mel_of_another_length_is_refused(student: Student, mel: Tensor) -> None:
    with pytest.raises(ValueError, match="span"):
        student(torch.zeros(2, 65, dtype=torch.float64), mel)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flows": []}, "flows is empty"),
        ({"flows": [4, 0]}, "layers is 0"),
        ({"gate": 15}, "gate is 15"),
        ({"initial_scale": 0.0}, "initial_scale is 0.0"),
        ({"hop_length": 0}, "hop_length is 0"),
        ({"base": "uniform"}, "uniform"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudentConfig(**changes)


# Student and teacher


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", OutputKind)
def test_every_preset_fits_every_teacher(make_teacher: MakeTeacher, path: Path, kind: OutputKind) -> None:
    size = StudentSize(**yaml.safe_load(path.read_text()))
    teacher = make_teacher(kind).config
    config = student_config(size, teacher)
    check_fit(config, teacher)
    assert config.context == teacher.context
    assert StudentConfig(**asdict(config)) == config


def test_the_papers_student_reaches_12280_samples_back() -> None:
    (paper,) = (path for path in PRESETS if path.stem == "paper")
    assert StudentSize(**yaml.safe_load(paper.read_text())).receptive_field == 12_280


def test_the_students_condition_begins_as_the_teachers(make_teacher: MakeTeacher, make_student: MakeStudent) -> None:
    teacher = make_teacher(OutputKind.mol)
    student = make_student(teacher)
    mel = torch.randn(1, teacher.config.n_mels, 6)
    assert not torch.equal(student.conditioner(mel, None), teacher.conditioner(mel, None))
    initialise_from_teacher(student, teacher)
    assert torch.equal(student.conditioner(mel, None), teacher.conditioner(mel, None))
    with torch.no_grad():
        teacher.conditioner.first.weight.zero_()  # a copy, not the same tensor
    assert not torch.equal(student.conditioner(mel, None), teacher.conditioner(mel, None))


@pytest.mark.parametrize(("name", "other"), [("n_mels", 100), ("hop_length", 200), ("n_speakers", 4)])
def test_a_student_that_reads_something_else_is_refused_with_both_values(name: str, other: int) -> None:
    teacher = WaveNetConfig()
    config = student_config(StudentSize(), teacher)
    setattr(config, name, other)
    with pytest.raises(ValueError, match=rf"{name} is {other}, the teacher's {getattr(teacher, name)}"):
        check_fit(config, teacher)


@pytest.mark.parametrize("kind", OutputKind)
def test_a_student_of_the_wrong_noise_is_refused_with_the_right_one(
    kind: OutputKind, make_teacher: MakeTeacher
) -> None:
    teacher = make_teacher(kind).config
    config = student_config(StudentSize(), teacher)
    config.base = Base.logistic if config.base is Base.normal else Base.normal
    with pytest.raises(ValueError, match=f"noise is {config.base}.*set base={base_for(kind)}"):
        check_fit(config, teacher)


def test_a_context_of_another_width_cannot_be_copied(make_teacher: MakeTeacher, make_student: MakeStudent) -> None:
    teacher = make_teacher(OutputKind.mol)
    config = make_student(teacher).config
    config.context = 7
    with pytest.raises(ValueError, match="context is 7, the teacher's 6"):
        initialise_from_teacher(Student(config), teacher)


# Checkpoints


def test_a_student_is_rebuilt_from_its_directory(student: Student, mel: Tensor, tmp_path: Path) -> None:
    student = student.float()
    save_weights(tmp_path, student.state_dict())
    save_description(tmp_path, _description("student", asdict(student.config)))
    loaded, description = load_student(tmp_path)
    assert loaded.config == student.config and description.gain == 1.5
    torch.testing.assert_close(loaded.generate(mel.float()), student.generate(mel.float()), rtol=0, atol=0)


@pytest.mark.parametrize("changes", [{"n_mels": 10**14}, {"context": 10**30}, {"residual": 10**14}])
def test_sizes_that_no_memory_holds_are_refused(student: Student, tmp_path: Path, changes: dict[str, int]) -> None:
    save_weights(tmp_path, student.state_dict())
    save_description(tmp_path, _description("student", asdict(student.config) | changes))
    with pytest.raises(
        CheckpointError, match=r"describes a student that cannot be built .*; copy the checkpoint again"
    ):
        load_student(tmp_path)


def test_a_teacher_is_no_student(make_teacher: MakeTeacher, tmp_path: Path) -> None:
    teacher = make_teacher(OutputKind.mol)
    save_weights(tmp_path, teacher.state_dict())
    save_description(tmp_path, _description("teacher", asdict(teacher.config)))
    with pytest.raises(CheckpointError, match="teacher"):
        load_student(tmp_path)


def _description(kind: str, model: dict[str, object]) -> Description:
    return Description(kind=kind, model=model, mel={}, gain=1.5, speakers=[], step=0, training={})


@pytest.mark.parametrize("block", [5, 17, 64, 1000])
def test_a_waveform_made_in_blocks_equals_one_pass(student: Student, block: int) -> None:
    mel = torch.randn(2, student.config.n_mels, 40, dtype=torch.float64)
    speaker = torch.zeros(2, dtype=torch.long) if student.config.n_speakers else None
    length = 40 * student.config.hop_length
    assert length > student.receptive_field + 64
    lengths = []
    handle = student.chain.register_forward_pre_hook(lambda module, inputs: lengths.append(inputs[0].shape[1]))
    whole = student.generate(mel, speaker, seed=3, block=length)
    assert lengths == [length]
    torch.testing.assert_close(student.generate(mel, speaker, seed=3, block=block), whole)
    assert max(lengths[1:]) <= student.receptive_field + block
    handle.remove()
