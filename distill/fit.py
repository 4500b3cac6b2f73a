"""Which student fits which teacher, and what it takes over from it."""

from dataclasses import asdict

from distill.student import Base, Student, StudentConfig, StudentSize
from wavenet.distributions import OutputKind
from wavenet.model import WaveNet, WaveNetConfig


def base_for(kind: OutputKind) -> Base:
    """The noise of a student whose cross-entropy under such a teacher is known: see `wavenet.distributions`."""
    return Base.normal if kind is OutputKind.gaussian else Base.logistic


def student_config(size: StudentSize, teacher: WaveNetConfig, initial_scale: float = 0.05) -> StudentConfig:
    """A student of this size for this teacher; `initial_scale` is the corpus' at the network's level."""
    return StudentConfig(
        **asdict(size),
        context=teacher.context,
        base=base_for(teacher.output.kind),
        initial_scale=initial_scale,
        n_mels=teacher.n_mels,
        hop_length=teacher.hop_length,
        n_speakers=teacher.n_speakers,
        pitch=teacher.pitch,
    )


def check_fit(student: StudentConfig, teacher: WaveNetConfig) -> None:
    """Refuses a student that reads other things than the teacher or whose noise the teacher cannot score.

    Raises:
        ValueError: naming both values and the remedy.
    """
    base = base_for(teacher.output.kind)
    if student.base is not base:
        raise ValueError(
            f"the student's noise is {student.base}, but a {teacher.output.kind} teacher scores {base} students: "
            f"set base={base}"
        )
    for name in ("n_mels", "hop_length", "n_speakers", "pitch"):
        ours, theirs = getattr(student, name), getattr(teacher, name)
        if ours != theirs:
            raise ValueError(
                f"the student's {name} is {ours}, the teacher's {theirs}: make the student with {name}={theirs}, "
                "or distil the teacher that it was made for"
            )


def initialise_from_teacher(student: Student, teacher: WaveNet) -> None:
    """Copies the teacher's context network, which both read the same mel and speaker through, and its pitch head.

    Raises:
        ValueError: they do not fit, or their contexts differ in width.
    """
    check_fit(student.config, teacher.config)
    ours, theirs = student.config.context, teacher.config.context
    if ours != theirs:
        raise ValueError(
            f"the student's context is {ours}, the teacher's {theirs}: make the student with context={theirs}"
        )
    student.conditioner.load_state_dict(teacher.conditioner.state_dict())
    hear_as_teacher(student, teacher)


def hear_as_teacher(student: Student, teacher: WaveNet) -> None:
    """Copies the teacher's pitch head, if they read pitch."""
    if student.pitch is not None and teacher.pitch is not None:
        student.pitch.load_state_dict(teacher.pitch.state_dict())
