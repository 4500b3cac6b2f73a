"""Training that begins with somebody's weights, and models with pitch, from the command line."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from distill.student import load_student
from wavenet.checkpoint import load_weights
from wavenet.fine_tuning import begin_from
from wavenet.model import WaveNet
from wavenet.pretrained import load_teacher
from wavenet.training.state import load_state

Finished = subprocess.CompletedProcess[str]
MEL = ["mel.sample_rate=8000", "mel.n_fft=256", "mel.win_length=256", "mel.hop_length=64", "mel.n_mels=20"]
MEL += ["mel.fmax=4000.0"]
STILL = ["trainer=tiny", "trainer.steps=1", "optim.lr=1.0e-9", "crops.frames=32", "clips=0"]
TRAIN = ["train", *MEL, *STILL, "teacher=tiny"]
HEARING = ["hearing.steps=2", "hearing.batch_size=2"]
DISTILL = ["distill", *STILL, "student=tiny", "losses.kl.draws=4"]


@pytest.fixture
def succeed(wavenet: Callable[..., Finished]) -> Callable[..., Finished]:
    def run(*arguments: object) -> Finished:
        done = wavenet(*arguments)
        assert done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture
def refuse(wavenet: Callable[..., Finished]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        done = wavenet(*arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
        return done.stderr.replace("\n", " ")

    return run


@pytest.fixture(scope="session")
def corpus_with_pitch(prepare_toy: Callable[..., Path]) -> Path:
    return prepare_toy(["one"], pitch=True)


def assert_near(one: Path, other: Path) -> None:
    """Of the same weights, but for one step at a rate of almost nothing."""
    ours, theirs = load_weights(one), load_weights(other)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-6)


def test_a_teacher_begins_with_the_weights_and_the_level_of_another(
    succeed: Callable[..., Finished], toy_corpus: Path, toy_teacher: Path, tmp_path: Path
) -> None:
    succeed(*TRAIN, f"data={toy_corpus}", f"init_from={toy_teacher}", f"run={tmp_path / 'run'}")
    assert_near(tmp_path / "run", toy_teacher)
    described, before = (json.loads((run / "config.json").read_text()) for run in (tmp_path / "run", toy_teacher))
    assert described["gain"] == before["gain"]
    assert described["training"]["init_from"] == {"name": toy_teacher.name, "step": before["step"]}
    succeed(*TRAIN, f"data={toy_corpus}", f"run={tmp_path / 'fresh'}")
    fresh = json.loads((tmp_path / "fresh" / "config.json").read_text())
    assert fresh["gain"] != before["gain"] and "init_from" not in fresh["training"]


def test_a_student_begins_with_the_weights_of_another(
    succeed: Callable[..., Finished], toy_corpus: Path, toy_teacher: Path, toy_student: Path, tmp_path: Path
) -> None:
    common = [f"data={toy_corpus}", f"teacher_checkpoint={toy_teacher}"]
    succeed(*DISTILL, *common, f"init_from={toy_student}", f"run={tmp_path / 'run'}")
    assert_near(tmp_path / "run", toy_student)
    succeed(*DISTILL, *common, f"run={tmp_path / 'fresh'}")
    fresh, tuned = (load_student(tmp_path / name)[0].config for name in ("fresh", "run"))
    assert tuned.initial_scale == load_student(toy_student)[0].config.initial_scale != fresh.initial_scale


@torch.no_grad()
def test_a_model_that_gains_pitch_computes_at_first_what_it_did(toy_teacher: Path) -> None:
    plain, _ = load_teacher(toy_teacher)
    plain.config.pitch = True
    model = WaveNet(plain.config).eval()
    head = {name: weight.clone() for name, weight in model.state_dict().items() if name.startswith("pitch.")}
    begin_from(model, plain.config, toy_teacher, "teacher")
    mel = 2.5 * torch.randn(2, 20, 10) - 5
    x = 0.3 * torch.randn(2, 640)
    excited = model.excite(mel)
    assert excited is not None and 0 < excited[..., 2].mean() < 1
    assert torch.equal(model(x, mel), plain(x, mel))
    assert head and all(torch.equal(model.state_dict()[name], weight) for name, weight in head.items())


def test_a_student_begins_as_a_narrower_one(
    succeed: Callable[..., Finished],
    refuse: Callable[..., str],
    toy_corpus: Path,
    toy_teacher: Path,
    toy_student: Path,
    tmp_path: Path,
) -> None:
    common = [f"data={toy_corpus}", f"teacher_checkpoint={toy_teacher}"]
    wider = ["student.residual=20", "student.gate=36"]
    succeed(*DISTILL, *common, *wider, f"init_from={toy_student}", f"run={tmp_path / 'wide'}")
    narrow, wide = (load_student(run)[0] for run in (toy_student, tmp_path / "wide"))
    assert (narrow.config.residual, wide.config.residual) < (20, 21)
    mel = 2.5 * torch.randn(1, 20, 10) - 5
    torch.testing.assert_close(wide.generate(mel), narrow.generate(mel), rtol=1e-3, atol=1e-4)
    said = refuse(*DISTILL, *common, f"init_from={tmp_path / 'wide'}", f"run={tmp_path / 'narrow'}")
    assert "gate is 36 there and 32 here; residual is 20 there and 16 here" in said and "or more channels" in said


def test_teacher_and_student_of_pitch_grow_out_of_those_without(
    succeed: Callable[..., Finished],
    refuse: Callable[..., str],
    corpus_with_pitch: Path,
    toy_teacher: Path,
    toy_student: Path,
    tmp_path: Path,
) -> None:
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    pitched = [*TRAIN, f"data={corpus_with_pitch}", "condition.pitch=true"]
    again = (*pitched, "optim.lr=1.0e-3", *HEARING, f"init_from={toy_teacher}", f"run={teacher}")
    succeed(*again)
    model, _ = load_teacher(teacher)
    assert model.config.pitch and model.network.first.weight[:, 1:].any()  # the columns learn
    heard = [json.loads(line) for line in (teacher / "pitch" / "log.jsonl").read_text().splitlines()]
    assert any({"valid/voicing", "valid/log_f0", "valid/misheard"} <= line.keys() for line in heard)
    assert model.pitch is not None
    learnt = load_weights(teacher / "pitch")
    for name, weight in model.pitch.state_dict().items():
        assert torch.equal(weight, learnt[name])
    assert "is finished" in succeed(*again).stderr
    deaf = [*pitched, "hearing.steps=0"]
    succeed(*deaf, f"init_from={teacher}", f"run={tmp_path / 'tuned'}")
    kept = load_weights(tmp_path / "tuned")
    assert all(torch.equal(kept[f"pitch.{name}"], weight) for name, weight in learnt.items())
    for origin, fault in ((toy_teacher, f"{toy_teacher} has none"), ("null", "there is no init_from")):
        assert fault in refuse(*deaf, f"init_from={origin}", f"run={tmp_path / 'refused'}")
    common = [f"data={corpus_with_pitch}", f"teacher_checkpoint={teacher}"]
    succeed(*DISTILL, *common, f"init_from={toy_student}", f"run={student}")
    made, _ = load_student(student)
    assert made.pitch is not None and model.pitch is not None
    for ours, theirs in zip(made.pitch.parameters(), model.pitch.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    mel = next((corpus_with_pitch / "mel").glob("*.npy"))
    succeed("synthesize", mel, "--checkpoint", student, "--out", tmp_path / "out")
    succeed("synthesize", mel, "--checkpoint", teacher, "--backend", "numba", "--out", tmp_path / "sampled")


def test_pitch_needs_a_corpus_whose_pitch_was_measured(
    refuse: Callable[..., str],
    toy_corpus: Path,
    make_toy_teacher: Callable[..., Path],
    tmp_path: Path,
) -> None:
    said = refuse(*TRAIN, f"data={toy_corpus}", "condition.pitch=true", f"run={tmp_path / 'run'}")
    assert "was prepared without F0: run `wavenet prepare` with the same settings and pitch=true" in said
    teacher = make_toy_teacher(pitch=True)
    said = refuse(*DISTILL, f"data={toy_corpus}", f"teacher_checkpoint={teacher}", f"run={tmp_path / 'run'}")
    assert "was prepared without F0" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("teacher.stack.layers=5", "stack.layers is 6 there and 5 here; give the settings"),
        ("output=gaussian", "output.kind is 'mol' there and 'gaussian' here"),
        ("init_from=nowhere", "nowhere is not a directory"),
        ("mel.fmax=3000.0", "was prepared with"),
    ],
)
def test_a_teacher_of_other_settings_is_no_beginning(
    refuse: Callable[..., str], toy_corpus: Path, toy_teacher: Path, tmp_path: Path, override: str, fault: str
) -> None:
    origin = [] if override.startswith("init_from") else [f"init_from={toy_teacher}"]
    assert fault in refuse(*TRAIN, f"data={toy_corpus}", *origin, override, f"run={tmp_path / 'run'}")


def test_what_cannot_be_gone_on_from_is_refused_by_name(
    refuse: Callable[..., str],
    toy_corpus: Path,
    toy_teacher: Path,
    toy_student: Path,
    make_toy_teacher: Callable[..., Path],
    make_toy_student: Callable[..., Path],
    toy_corpus_of_two: Path,
    tmp_path: Path,
) -> None:
    run = f"run={tmp_path / 'run'}"
    assert "holds a student" in refuse(*TRAIN, f"data={toy_corpus}", f"init_from={toy_student}", run)
    pitched = make_toy_teacher(pitch=True)
    assert "pitch is True there and False here" in refuse(*TRAIN, f"data={toy_corpus}", f"init_from={pitched}", run)
    others = make_toy_teacher(speakers=("eve", "mallory"))
    said = refuse(*TRAIN, f"data={toy_corpus_of_two}", f"init_from={others}", run)
    assert "knows the speakers eve, mallory, but" in said and "has ada, bob" in said
    loud = make_toy_student(gain=2.0)
    teacher = [f"data={toy_corpus}", f"teacher_checkpoint={toy_teacher}"]
    assert "has the gain 2, but this run 1.25" in refuse(*DISTILL, *teacher, f"init_from={loud}", run)


def test_a_checkpoint_from_before_there_was_pitch_has_none(
    toy_teacher: Path, toy_student: Path, tmp_path: Path
) -> None:
    for origin, load in ((toy_teacher, load_teacher), (toy_student, load_student)):
        run = Path(shutil.copytree(origin, tmp_path / origin.name))
        described = json.loads((run / "config.json").read_text())
        assert described["model"].pop("pitch") is False
        (run / "config.json").write_text(json.dumps(described))
        model, _ = load(run)
        assert model.pitch is None and not model.config.pitch


def test_a_run_goes_on_under_a_program_that_has_learnt_new_switches(
    succeed: Callable[..., Finished], refuse: Callable[..., str], toy_corpus: Path, tmp_path: Path
) -> None:
    run = [*TRAIN, f"data={toy_corpus}", f"run={tmp_path}"]
    succeed(*run)
    saved = torch.load(tmp_path / "trainer.pt", weights_only=True)
    assert saved["pinned"].pop("model.pitch") is False
    torch.save(saved, tmp_path / "trainer.pt")
    succeed(*run, "trainer.steps=2")
    saved["pinned"]["model.pitch"] = True
    torch.save(saved, tmp_path / "trainer.pt")
    assert "model.pitch was True and is now False" in refuse(*run)
    with_pitch = {**saved["pinned"], "model.n_speakers": 3}
    shutil.rmtree(tmp_path / "tensorboard")
    with pytest.raises(ValueError, match=r"model\.n_speakers was 0 and is now 3"):
        load_state(tmp_path, with_pitch)
