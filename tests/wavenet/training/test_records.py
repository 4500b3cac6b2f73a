"""The curves and clips of a run can be read back by TensorBoard and by programs."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from wavenet.training.journal import Journal
from wavenet.training.tensorboard import spectrogram_picture


@pytest.fixture(scope="module")
def run(toy: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("run")
    mishaps = toy.Mishaps(nan=range(5, 6))
    toy.trainer(path, toy.Regression(mishaps=mishaps), steps=20, log_every=2, audition_every=10).run()
    return path


def test_tensorboard_reads_every_curve_back(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    train = ["loss", "error", "size", "learning_rate", "grad_norm", "samples_per_second", "skipped_steps"]
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in train} | {"valid/error", "valid/draw"}
    assert [event.step for event in events.Scalars("train/loss")] == list(range(2, 21, 2))
    assert [event.step for event in events.Scalars("valid/error")] == [10, 20]
    assert all(event.value > 0 for event in events.Scalars("train/samples_per_second"))
    assert [event.value for event in events.Scalars("train/skipped_steps")] == [0, 0] + [1] * 8


def test_tensorboard_reads_clips_and_their_spectrograms_back(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    clips = events.Audio("clip/tone")
    assert [(clip.step, clip.sample_rate, clip.content_type) for clip in clips] == [
        (10, 16000.0, "audio/wav"),
        (20, 16000.0, "audio/wav"),
    ]
    assert clips[0].encoded_audio_string[:4] == b"RIFF"
    pictures = events.Images("clip/tone/spectrogram")
    assert [picture.step for picture in pictures] == [10, 20]
    assert pictures[0].encoded_image_string[1:4] == b"PNG"


def test_the_journal_holds_what_tensorboard_shows_with_every_digit(run: Path) -> None:
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    for tag in ("train/loss", "train/grad_norm", "valid/error"):
        written = [(line["step"], line[tag]) for line in lines if line.get(tag) is not None]
        shown = [(event.step, event.value) for event in events.Scalars(tag) if np.isfinite(event.value)]
        assert [step for step, _ in written] == [step for step, _ in shown]
        assert [value for _, value in written] == pytest.approx([value for _, value in shown], rel=1e-6)


@given(steps=st.lists(st.integers(1, 50), min_size=1, max_size=20), resumed=st.integers(0, 50), cut=st.integers(0, 40))
def test_a_resumed_journal_keeps_whole_lines_up_to_its_step(
    steps: list[int], resumed: int, cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("journal")
    steps.sort()
    with Journal(path, 0) as journal:
        for step in steps:
            journal.write(step, {"loss": step / 3})
    data = (path / "log.jsonl").read_bytes()
    (path / "log.jsonl").write_bytes(data[: len(data) - cut])
    whole_lines = data[: len(data) - cut].count(b"\n")
    with Journal(path, resumed) as journal:
        journal.write(resumed + 1, {"loss": 0.1})
    read = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    kept = [step for step in steps[:whole_lines] if step <= resumed]
    assert [line["step"] for line in read] == [*kept, resumed + 1]
    assert [line["loss"] for line in read] == [*(step / 3 for step in kept), 0.1]


@pytest.mark.parametrize("sample_rate", [8000, 16000, 22050, 24000, 48000])
def test_the_brightest_row_of_a_tone_is_at_its_frequency(sample_rate: int) -> None:
    tone = np.sin(2 * np.pi * 1500.0 * np.arange(sample_rate) / sample_rate).astype(np.float32)
    picture = spectrogram_picture(tone, sample_rate)
    assert picture.dtype == np.uint8
    height, width, colours = picture.shape
    assert colours == 3
    row = int(picture[:, width // 2].sum(axis=1, dtype=int).argmax())
    bin_width = sample_rate / 2 / (height - 1)
    assert abs((height - 1 - row) * bin_width - 1500.0) <= bin_width


@pytest.mark.parametrize("length", [1, 2, 100, 1024])
def test_a_clip_of_any_length_and_silence_have_a_picture(length: int) -> None:
    assert spectrogram_picture(np.zeros(length, dtype=np.float32), 16000).size > 0


def test_a_remark_on_a_validation_is_said_and_kept_in_both(
    toy: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    objective, heard = toy.Regression(), []

    def remark(figures: dict[str, float]) -> str:
        heard.append(set(figures))
        return "well" if len(heard) == 1 else ""

    objective.remark = remark
    toy.trainer(tmp_path, objective, steps=20).run()
    assert heard == [{"error", "draw"}] * 2
    assert f"{tmp_path}, step 10: well" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line for line in lines if "remark" in line] == [{"step": 10, "remark": "well"}]
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    (text,) = events.Tensors("remark/text_summary")
    assert (text.step, text.tensor_proto.string_val) == (10, [b"well"])
