"""A checkpoint is either exactly what was saved or refused with a reason."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from wavenet.checkpoint import (
    CheckpointError,
    Description,
    load_description,
    load_into,
    load_weights,
    save_description,
    save_weights,
)


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(3, 5, generator=generator),
        "scalar": torch.tensor(0.25, dtype=torch.float64),
        "empty": torch.zeros(0),
        "half": torch.randn(2, generator=generator).bfloat16(),
        "count": torch.tensor([1, 2], dtype=torch.int64),
        "transposed": torch.randn(4, 2, generator=generator).T,
    }


def description(**changes: Any) -> Description:
    values = {"kind": "teacher", "model": {"layers": 6}, "mel": {"n_mels": 80}, "gain": 1 / 3, "speakers": ["ünï"]}
    return Description(**(values | changes))


def test_weights_come_back_bit_for_bit(tmp_path: Path) -> None:
    save_weights(tmp_path, weights())
    loaded = load_weights(tmp_path)
    assert loaded.keys() == weights().keys()
    for name, tensor in weights().items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)


def test_saving_into_a_new_directory_makes_it_and_leaves_no_other_file(tmp_path: Path) -> None:
    save_weights(tmp_path / "a" / "b", weights())
    save_description(tmp_path / "a" / "b", description())
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {"model.safetensors", "config.json"}


@given(where=st.floats(0.0, 1.0, exclude_max=True))
def test_weights_cut_at_any_length_are_refused(where: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("cut")
    save_weights(directory, weights())
    path = directory / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(where * len(data))])
    with pytest.raises(CheckpointError, match="truncated"):
        load_weights(directory)


@given(where=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
def test_weights_with_any_bit_flipped_are_refused(
    where: float, bit: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("flip")
    save_weights(directory, weights())
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[int(where * len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(CheckpointError):
        load_weights(directory)


def test_other_weights_under_the_old_hash_are_refused(tmp_path: Path) -> None:
    save_weights(tmp_path, weights())
    path = tmp_path / "model.safetensors"
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    safetensors.torch.save_file({"matrix": torch.ones(3, 5)}, path, metadata=metadata)
    with pytest.raises(CheckpointError, match="does not match its sha256"):
        load_weights(tmp_path)


def test_weights_without_a_hash_are_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"matrix": torch.ones(3, 5)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no sha256"):
        load_weights(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_not_saved(value: float, tmp_path: Path) -> None:
    save_weights(tmp_path, weights())
    with pytest.raises(CheckpointError, match="matrix holds NaN or Inf"):
        save_weights(tmp_path, weights() | {"matrix": torch.tensor([value])})
    assert torch.equal(load_weights(tmp_path)["matrix"], weights()["matrix"])


def test_weights_that_are_not_finite_are_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("wavenet.checkpoint._check_finite", lambda *_: None)
        save_weights(tmp_path, {"matrix": torch.tensor([1.0, float("nan")])})
    with pytest.raises(CheckpointError, match="matrix holds NaN or Inf"):
        load_weights(tmp_path)


def test_loading_into_a_module_fills_it(tmp_path: Path) -> None:
    source, target = nn.Linear(3, 2), nn.Linear(3, 2)
    save_weights(tmp_path, source.state_dict())
    load_into(target, load_weights(tmp_path))
    assert torch.equal(source.weight, target.weight)
    assert torch.equal(source.bias, target.bias)


@pytest.mark.parametrize(
    ("state", "complaint"),
    [
        ({"weight": torch.zeros(2, 3)}, "bias is missing"),
        ({"weight": torch.zeros(2, 3), "bias": torch.zeros(2), "more": torch.zeros(1)}, "more is unknown"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, r"weight has shape \[3, 2\], not \[2, 3\]"),
    ],
)
def test_weights_of_another_network_are_refused_by_name(state: dict[str, Tensor], complaint: str) -> None:
    module = nn.Linear(3, 2)
    before = module.weight.clone()
    with pytest.raises(CheckpointError, match=complaint):
        load_into(module, state)
    assert torch.equal(module.weight, before)


@given(
    gain=st.floats(1e-6, 1e6),
    speakers=st.lists(st.text(st.characters(codec="utf-8"))),
    step=st.integers(0),
    training=st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats(allow_nan=False, allow_infinity=False)),
)
def test_a_description_comes_back_equal(
    gain: float,
    speakers: list[str],
    step: int,
    training: dict[str, float],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    directory = tmp_path_factory.mktemp("description")
    saved = description(gain=gain, speakers=speakers, step=step, training=training)
    save_description(directory, saved)
    assert load_description(directory, kind="teacher") == saved


def test_a_missing_directory_is_named_with_the_commands_that_make_one(tmp_path: Path) -> None:
    for load in (load_weights, load_description):
        with pytest.raises(CheckpointError, match=r"nowhere is not a directory.*wavenet train.*wavenet distill"):
            load(tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no model\.safetensors"):
        load_weights(tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        load_description(tmp_path)


def test_a_teacher_is_refused_where_a_student_is_due(tmp_path: Path) -> None:
    save_description(tmp_path, description())
    with pytest.raises(CheckpointError, match="holds a teacher, and a student is needed; `wavenet distill` makes one"):
        load_description(tmp_path, kind="student")


def test_a_student_is_refused_where_a_teacher_is_due(tmp_path: Path) -> None:
    save_description(tmp_path, description(kind="student"))
    with pytest.raises(CheckpointError, match="holds a student, and a teacher is needed; `wavenet train` makes one"):
        load_description(tmp_path, kind="teacher")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"format": 2}, "made by a newer version"),
        ({"format": "1"}, "no format number"),
        ({"format": True}, "no format number"),
        ({"format": 0}, "format 0"),
        ({"kind": "vocoder"}, "kind is 'vocoder'"),
        ({"kind": ["student"]}, r"kind is \['student'\]"),
        ({"kind": {}}, "kind is {}"),
        ({"kind": None}, "kind is None"),
        ({"model": [1]}, "model is"),
        ({"mel": None}, "mel is None"),
        ({"gain": 0.0}, "gain is 0.0"),
        ({"gain": float("nan")}, "gain is nan"),
        ({"gain": True}, "gain is True"),
        ({"speakers": "anna"}, "speakers is 'anna'"),
        ({"step": -1}, "step is -1"),
        ({"step": 1.5}, "step is 1.5"),
        ({"colour": "red"}, "has the unknown colour"),
    ],
)
def test_a_wrong_value_in_the_description_is_named(change: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    save_description(tmp_path, description())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=complaint):
        load_description(tmp_path)


def test_a_missing_value_in_the_description_is_named(tmp_path: Path) -> None:
    save_description(tmp_path, description())
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["gain"]
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="lacks gain"):
        load_description(tmp_path)


def test_a_description_of_before_the_bands_is_read(tmp_path: Path) -> None:
    save_description(tmp_path, description())
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    del values["bands"]
    path.write_text(json.dumps(values))
    assert load_description(tmp_path) == description()


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_description_that_is_not_json_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(data)
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_description(tmp_path)


@pytest.mark.parametrize("call", ["fsync", "replace", "write"])
def test_a_full_disk_is_said_and_leaves_the_old_weights_alone(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_weights(tmp_path, weights())

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, {"replace": "replace", "write": "open"}[call], full)
        with pytest.raises(CheckpointError, match=r"cannot write .*model\.safetensors: No space left.*free space"):
            save_weights(tmp_path, {"matrix": torch.ones(1)})
    assert torch.equal(load_weights(tmp_path)["matrix"], weights()["matrix"])
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_directory_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/run/config\.json.*make the folder writable"):
        save_description(tmp_path / "file" / "run", description())
