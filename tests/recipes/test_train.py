"""`wavenet train` and `wavenet distill`: killed, resumed, shared by two processes, watched in TensorBoard."""

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distill.student import load_student
from wavenet.checkpoint import load_weights
from wavenet.pretrained import load_teacher

Finished = subprocess.CompletedProcess[str]

MEL = ["mel.sample_rate=8000", "mel.n_fft=256", "mel.win_length=256", "mel.hop_length=64", "mel.n_mels=20"]
TRAIN = ["train", "trainer=tiny", "teacher=tiny", *MEL, "mel.fmax=4000", "crops.frames=8", "clips=1"]
DISTILL = ["distill", "trainer=tiny", "student=tiny", "crops.frames=8", "clips=1"]
DISTILL += ["losses.kl.draws=4", "losses.power.fft_sizes=[64,128]"]
SHORT = ["trainer.steps=8", "trainer.checkpoint_every=3", "trainer.validate_every=4", "trainer.audition_every=8"]

DIES = """
import os, signal
from {module} import {objective} as Objective
forward = Objective.forward
def fatal(self, batch, step):
    if step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return forward(self, batch, step)
Objective.forward = fatal
from recipes.cli import main
main()
"""

FULL = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
from recipes.cli import main
main()
"""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that are compared with: sums of floats depend on the number."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def succeed(wavenet: Callable[..., Finished]) -> Callable[..., Finished]:
    def run(*arguments: object) -> Finished:
        done = wavenet(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run


def execute(code: str, *arguments: str) -> Finished:
    """A program that prepares its own mishap and then is the command."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


def kill(module: str, objective: str, *arguments: str) -> None:
    """Run a command that is killed, as by `kill -9`, within its sixth step."""
    done = execute(DIES.format(module=module, objective=objective), *arguments)
    assert done.returncode == -signal.SIGKILL, done.stderr


def same_files(one: Path, other: Path) -> None:
    for name in ("log.jsonl", "model.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    first, second = (json.loads((run / "config.json").read_text()) for run in (one, other))
    assert first == second


def test_a_killed_training_resumes_by_the_same_command_as_if_nothing_had_happened(
    succeed: Callable[..., Finished], toy_corpus: Path, tmp_path: Path
) -> None:
    command = [*TRAIN, *SHORT, f"data={toy_corpus}"]
    kill("wavenet.objective", "TeacherObjective", *command, f"run={tmp_path / 'killed'}")
    assert load_teacher(tmp_path / "killed")[1].step == 3
    assert "going on from step 3" in succeed(*command, f"run={tmp_path / 'killed'}").stderr
    succeed(*command, f"run={tmp_path / 'whole'}")
    same_files(tmp_path / "killed", tmp_path / "whole")
    steps = [json.loads(line)["step"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == list(range(1, 9))
    assert "is finished: 8 steps of 8" in succeed(*command, f"run={tmp_path / 'whole'}").stderr


def test_a_killed_distillation_resumes_by_the_same_command_as_if_nothing_had_happened(
    succeed: Callable[..., Finished], toy_corpus: Path, toy_teacher: Path, tmp_path: Path
) -> None:
    command = [*DISTILL, *SHORT, f"data={toy_corpus}", f"teacher_checkpoint={toy_teacher}"]
    kill("distill.objective", "DistillationObjective", *command, f"run={tmp_path / 'killed'}")
    assert load_student(tmp_path / "killed")[1].step == 3
    assert "going on from step 3" in succeed(*command, f"run={tmp_path / 'killed'}").stderr
    succeed(*command, f"run={tmp_path / 'whole'}")
    same_files(tmp_path / "killed", tmp_path / "whole")


def test_a_disk_that_is_full_during_a_checkpoint_costs_no_earlier_one(
    succeed: Callable[..., Finished], toy_corpus: Path, tmp_path: Path
) -> None:
    """The weights do not fit into the largest file that the process may write."""
    command = [*TRAIN, f"data={toy_corpus}", f"run={tmp_path}", "trainer.audition_every=0"]
    succeed(*command, "trainer.steps=2")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix in (".safetensors", ".pt")}
    done = execute(FULL, *command, "trainer.steps=4")
    assert done.returncode == 1
    assert "model.safetensors: File too large; free space there" in done.stderr
    assert "Traceback" not in done.stderr
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before} == before
    assert not list(tmp_path.glob("*.tmp"))
    assert not list(tmp_path.glob(".*.tmp"))
    assert "going on from step 2" in succeed(*command, "trainer.steps=4").stderr


def test_a_run_is_not_continued_under_other_settings(
    succeed: Callable[..., Finished], wavenet: Callable[..., Finished], toy_corpus: Path, tmp_path: Path
) -> None:
    command = [*TRAIN, f"data={toy_corpus}", f"run={tmp_path}", "trainer.steps=1", "trainer.audition_every=0"]
    succeed(*command)
    weights = (tmp_path / "model.safetensors").read_bytes()
    done = wavenet(*command, "output=gaussian", "trainer.steps=2")
    assert done.returncode == 2
    assert "model.output.kind was 'mol' and is now 'gaussian'" in done.stderr
    assert (tmp_path / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
def test_the_curves_and_clips_of_a_teacher_are_in_tensorboard(
    succeed: Callable[..., Finished], toy_corpus: Path, tmp_path: Path, kind: str
) -> None:
    succeed(*TRAIN, *SHORT, f"output={kind}", f"data={toy_corpus}", f"run={tmp_path}")
    events = read_events(tmp_path)
    curves = {"train/loss", "train/nll", "train/bits", "train/grad_norm", "train/learning_rate"}
    curves |= {"train/samples_per_second", "train/skipped_steps", "valid/nll", "valid/bits"}
    assert set(events.Tags()["scalars"]) == curves
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("valid/bits")] == [4, 8]
    assert len(events.Tags()["audio"]) == 1
    assert len(events.Tags()["images"]) == 1
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    logged = [line["train/bits"] for line in log if "train/bits" in line]
    assert [event.value for event in events.Scalars("train/bits")] == pytest.approx(logged, rel=1e-6)


def test_a_student_of_a_gaussian_teacher_is_as_loud_at_first_as_one_of_a_mixture(
    succeed: Callable[..., Finished], make_toy_teacher: Callable[..., Path], toy_corpus: Path, tmp_path: Path
) -> None:
    """A normal distribution as loud as a logistic one has a scale pi / sqrt(3) times as large, and so has silence."""
    scales, floors = [], []
    for kind in ("mol", "gaussian"):
        command = [*DISTILL, "trainer.steps=1", f"data={toy_corpus}", f"teacher_checkpoint={make_toy_teacher(kind)}"]
        succeed(*command, f"run={tmp_path / kind}")
        described = json.loads((tmp_path / kind / "config.json").read_text())
        scales.append(described["model"]["initial_scale"])
        floors.append(described["training"]["losses"]["kl"]["floor"])
    ratio = math.pi / math.sqrt(3)
    assert scales[1] / scales[0] == pytest.approx(ratio)
    assert floors[1] - floors[0] == pytest.approx(math.log(ratio))


@pytest.mark.parametrize("kind", ["mulaw", "mol", "gaussian"])
def test_every_term_of_a_distillation_is_in_tensorboard(
    succeed: Callable[..., Finished],
    toy_corpus: Path,
    make_toy_teacher: Callable[..., Path],
    tmp_path: Path,
    kind: str,
) -> None:
    teacher = make_toy_teacher(kind)
    succeed(*DISTILL, *SHORT, f"data={toy_corpus}", f"teacher_checkpoint={teacher}", f"run={tmp_path}")
    events = read_events(tmp_path)
    terms = {"loss", "kl", "cross_entropy", "entropy", "kl_clipped", "kl_other", "contrast"}
    spectral = ("convergence", "log_magnitude", "mean_power", "low_band", "high_band", "mel")
    terms |= {f"spectral_{name}" for name in spectral}
    terms |= {"scale_regulariser"} if kind == "gaussian" else set()
    curves = {f"{stage}/{term}" for stage in ("train", "valid") for term in terms}
    curves |= {f"train/{name}" for name in ("grad_norm", "learning_rate", "samples_per_second", "skipped_steps")}
    curves |= {"valid/log_mel_l1", "valid/bits", "valid/bits_real"}
    health, others = set(), set()
    for name in events.Tags()["scalars"]:
        (health if name.startswith("valid/health/") else others).add(name)
    assert others == curves
    assert {f"valid/health/{name}" for name in ("level_db", "periodicity", "hiss_db", "floor_db", "spectral")} < health
    assert len(events.Tags()["audio"]) == 2  # as recorded, and as the student says it


def read_events(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return events


@pytest.mark.parametrize(
    ("told", "reads"),
    [
        (["condition.mel=true", "condition.speaker=true"], (20, 2)),
        (["condition.mel=true", "condition.speaker=false"], (20, 0)),
        (["condition.mel=false", "condition.speaker=true"], (0, 2)),
        (["condition.mel=false", "condition.speaker=false"], (0, 0)),
    ],
    ids=["both", "mel", "speaker", "neither"],
)
def test_teachers_of_every_condition_train_and_have_students(
    succeed: Callable[..., Finished], toy_corpus_of_two: Path, tmp_path: Path, told: list[str], reads: tuple[int, int]
) -> None:
    brief = ["trainer.steps=2", f"data={toy_corpus_of_two}"]
    succeed(*TRAIN, *brief, *told, f"run={tmp_path / 'teacher'}")
    succeed(*DISTILL, *brief, f"teacher_checkpoint={tmp_path / 'teacher'}", f"run={tmp_path / 'student'}")
    teacher, description = load_teacher(tmp_path / "teacher")
    student, _ = load_student(tmp_path / "student")
    assert (teacher.config.n_mels, teacher.config.n_speakers) == reads
    assert (student.config.n_mels, student.config.n_speakers) == reads
    assert description.speakers == (["ada", "bob"] if reads[1] else [])


def test_two_processes_train_the_weights_of_one(
    succeed: Callable[..., Finished],
    start_wavenet: Callable[..., subprocess.Popen[str]],
    toy_corpus: Path,
    tmp_path: Path,
) -> None:
    """With the variables that torchrun sets."""
    command = [*TRAIN, "trainer.steps=3", "trainer.audition_every=0", f"data={toy_corpus}"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    pair = [
        start_wavenet(*command, f"run={tmp_path / 'two'}", RANK=rank, LOCAL_RANK=rank, **variables) for rank in "01"
    ]
    said = [process.communicate(timeout=120)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said
    succeed(*command, f"run={tmp_path / 'one'}")
    one, two = load_weights(tmp_path / "one"), load_weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=1e-4)
