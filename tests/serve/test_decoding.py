"""Bytes of a body -> a mel, or a problem that names what is wrong; never another error, never an unpickling."""

import io
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data.mel import MelConfig
from serve import Vocoder
from serve.bodies import parse_body
from serve.decoding import MOST_AT_ONCE
from serve.problems import Problem

Utterance = Callable[..., NDArray[np.float32]]
Speech = Callable[..., NDArray[np.float32]]
SECONDS = 2.0
EXAMPLES = settings.get_profile("serve")
NPY, JSON, WAV = "application/x-npy", "application/json", "audio/wav"
FORM = "multipart/form-data; boundary=xyz"


def npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def with_header(header: str, data: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def wav_file(wav: NDArray[np.float32], rate: int, **options: Any) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, rate, **{"format": "WAV", **options})
    return buffer.getvalue()


def part(content: bytes, disposition: str = 'form-data; name="file"; filename="a"', kind: str = "") -> bytes:
    head = f"--xyz\r\nContent-Disposition: {disposition}\r\n" + (f"Content-Type: {kind}\r\n" if kind else "")
    return head.encode() + b"\r\n" + content + b"\r\n"


@pytest.fixture(scope="module")
def parse(toy_vocoder: Vocoder) -> Callable[..., NDArray[np.float32]]:
    def run(content: bytes, header: str, options: bool = False) -> Any:
        asked = parse_body(content, header, toy_vocoder, SECONDS)
        return asked.options if options else asked.mel

    return run


@pytest.fixture(scope="module")
def mel(toy_utterance: Utterance) -> NDArray[np.float32]:
    return toy_utterance(30)


@pytest.mark.parametrize(
    "laid_out",
    [
        lambda mel: mel,
        lambda mel: mel.astype(">f8"),
        lambda mel: np.asfortranarray(mel),
        lambda mel: mel[None],
    ],
    ids=["float32", "big-endian float64", "fortran", "batch of one"],
)
def test_a_npy_file_is_its_mel(parse: Callable[..., Any], mel: NDArray[np.float32], laid_out: Any) -> None:
    np.testing.assert_array_equal(parse(npy(laid_out(mel)), NPY), mel)


def test_half_precision_is_enough(parse: Callable[..., Any], mel: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(parse(npy(mel.astype(np.float16)), NPY), mel.astype(np.float16))


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_all_versions_of_npy_are_read(
    parse: Callable[..., Any], mel: NDArray[np.float32], version: tuple[int, int]
) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, mel, version)
    np.testing.assert_array_equal(parse(buffer.getvalue(), NPY), mel)


def test_json_has_frames_of_bands(parse: Callable[..., Any], mel: NDArray[np.float32]) -> None:
    body = json.dumps({"mel": mel.T.tolist(), "seed": 3}).encode()
    np.testing.assert_array_equal(parse(body, "application/json; charset=utf-8").astype(np.float32), mel)
    assert parse(body, JSON, options=True) == {"seed": 3}


def test_json_may_be_laid_out(parse: Callable[..., Any], mel: NDArray[np.float32]) -> None:
    for layout in ({"indent": 4}, {"separators": (",", ":")}):
        body = json.dumps({"seed": 3, "mel": mel.T.tolist(), "speaker": "a"}, **layout).encode()
        np.testing.assert_array_equal(parse(body, JSON).astype(np.float32), mel)
        assert parse(body, JSON, options=True) == {"seed": 3, "speaker": "a"}


def test_json_is_parsed_bit_by_bit(
    parse: Callable[..., Any], mel: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it parses, the event loop cannot run."""
    sizes: list[int] = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text, **options: (sizes.append(len(text)), loads(text, **options))[1])
    long = json.dumps({"mel": np.tile(mel, (1, 8)).T.tolist()}).encode()
    assert len(long) > 10 * len(json.dumps(mel[:, 0].tolist()))
    assert parse(long, JSON).shape == (20, 240)
    assert max(sizes) < len(long) / 100
    refuses_or_reads(parse, b'{"mel": ' + b"[1, " * 10**6, JSON)
    refuses_or_reads(parse, b'{"seed": [' + b"1, " * 10**6 + b"1]}", JSON)
    assert max(sizes) <= MOST_AT_ONCE


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG"])
def test_a_sound_is_its_mel(
    parse: Callable[..., Any], toy_vocoder: Vocoder, toy_speech: Speech, toy_mel: MelConfig, format: str
) -> None:
    content = wav_file(toy_speech(0.5), toy_mel.sample_rate, format=format)
    wav, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    np.testing.assert_array_equal(parse(content, "audio/whatever"), toy_vocoder.mel_of(wav, rate).numpy())


def test_channels_are_averaged_and_rates_converted(
    parse: Callable[..., Any], toy_vocoder: Vocoder, toy_speech: Speech
) -> None:
    wav = toy_speech(0.5, rate=22050)
    content = wav_file(np.stack([wav, np.zeros_like(wav)], axis=1), 22050, subtype="FLOAT")
    np.testing.assert_allclose(parse(content, WAV), toy_vocoder.mel_of(wav / 2, 22050).numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", ["", "application/octet-stream", NPY])
def test_a_form_with_one_file_is_that_file(parse: Callable[..., Any], mel: NDArray[np.float32], kind: str) -> None:
    np.testing.assert_array_equal(parse(part(npy(mel), kind=kind) + b"--xyz--\r\n", FORM), mel)


def test_a_form_with_a_sound_is_that_sound(parse: Callable[..., Any], toy_speech: Speech) -> None:
    content = wav_file(toy_speech(0.4), 8000)
    for kind in ("", "audio/x-wav"):
        np.testing.assert_array_equal(parse(part(content, kind=kind) + b"--xyz--", FORM), parse(content, WAV))


FRAMES = json.dumps({"mel": [[-5.0] * 20] * 2}).encode()
HEADER = "{'descr': '<f4', 'fortran_order': False, 'shape': (20, 3), }\n"


@pytest.mark.parametrize(
    ("content", "header", "status", "rule"),
    [
        (b"x", "text/plain", 415, "'text/plain'"),
        (b"x", "", 415, "''"),
        (b"", NPY, 422, "empty"),
        (b"PK\x03\x04abc", NPY, 422, r"\.npz"),
        (b"hello", NPY, 422, "no .npy file"),
        (b"\x93NUMPY\x09\x00aaaaaaa", NPY, 422, "version 1, 2 or 3"),
        (b"\x93NUMPY\x01\x00\xff\xff", NPY, 422, "no .npy file|ends at byte"),
        (with_header(HEADER, b"\0" * 239), NPY, 422, "promises 240 bytes, and 239 follow"),
        (with_header(HEADER, b"\0" * 241), NPY, 422, "promises 240 bytes, and 241 follow"),
        (with_header(HEADER.replace("20, 3", "20, 10000000")), NPY, 413, "longer than the limit of 2 s"),
        (with_header(HEADER.replace("20, 3", "99999999999999999999, 99999999999999999")), NPY, 422, "promises"),
        (with_header(HEADER.replace("20, 3", "-20, 3")), NPY, 422, "header"),
        (with_header(HEADER.replace("'<f4'", "'|O'")), NPY, 422, "objects, which would have to be unpickled"),
        (with_header(HEADER.replace("'<f4'", "[('a', '<f4')]")), NPY, 422, "the type"),
        (with_header(HEADER.replace("'<f4'", "__import__('os')")), NPY, 422, "header"),
        (npy(np.array([{}, None], object)), NPY, 422, "objects"),
        (npy(np.zeros((20, 3), np.int64)), NPY, 422, "floating-point"),
        (npy(np.zeros((20, 3), bool)), NPY, 422, "floating-point"),
        (npy(np.zeros((19, 3), np.float32)), NPY, 422, "needs 20 bands, not 19"),
        (npy(np.zeros((3, 20), np.float32)), NPY, 422, "transposed"),
        (npy(np.zeros((20, 0), np.float32)), NPY, 422, "zero frames"),
        (npy(np.zeros(20, np.float32)), NPY, 422, "shape"),
        (npy(np.full((20, 3), np.nan, np.float32)), NPY, 422, "NaN"),
        (npy(np.full((20, 3), 1e5)), NPY, 422, "decibels"),
        (npy(np.full((20, 300), -5.0, np.float32)), NPY, 413, "2.4 s is longer than the limit of 2 s"),
        (pickle.dumps("x"), NPY, 422, "no .npy file"),
        (b"{", JSON, 400, "not JSON"),
        (b'\xff{"mel"', JSON, 400, "not JSON"),
        (b"[" * 100_000, JSON, 400, "not JSON"),
        (b'{"mel": [[NaN]]}', JSON, 400, "NaN is no JSON number"),
        (b'{"mel": [[' + b"9" * 5000 + b"]]}", JSON, 400, "not JSON"),
        (b'{"mel": [[' + b"1, " * 19 + b"9" * 400 + b"]]}", JSON, 422, "beyond all floats"),
        (b'{"mel": [[' + b"1, " * 19 + b"1e999]]}", JSON, 422, "infinity"),
        (b"[]", JSON, 422, "no object with a mel"),
        (b"{}", JSON, 422, "no object with a mel"),
        (b'{"mel": []}', JSON, 422, "list of frames"),
        (b'{"mel": [[]]}', JSON, 422, "frame 1 has 0 numbers, and the model 20 bands"),
        (json.dumps({"mel": [[-5.0] * 20, [-5.0]]}).encode(), JSON, 422, "frame 2 has 1 numbers"),
        (json.dumps({"mel": [[-5.0] * 19 + ["1"]]}).encode(), JSON, 422, "other than numbers"),
        (json.dumps({"mel": [[-5.0] * 19 + [True]]}).encode(), JSON, 422, "other than numbers"),
        (b'{"mel": {"a": 1}}', JSON, 422, "list of frames"),
        (json.dumps({"mel": [[-5.0] * 4] * 20}).encode(), JSON, 422, r"20 bands: send mel\.T"),
        (json.dumps({"mel": [[-5.0] * 20] * 300}).encode(), JSON, 413, "longer than the limit of 2 s"),
        (b'{"mel": [[1, 2', JSON, 422, "list of frames"),
        (FRAMES.replace(b"]]", b"], ["), JSON, 422, "list of frames"),
        (FRAMES.replace(b"]]", b"] [1]]"), JSON, 422, "list of frames"),
        (FRAMES.replace(b"}", b', "mel": [[2]]}'), JSON, 422, "list of frames"),
        (FRAMES.replace(b"}", b'"seed": 1}'), JSON, 400, "not JSON"),
        (b'{"seed": ' + FRAMES + b"}", JSON, 422, "no object with a mel"),
        (FRAMES.replace(b"]]", b", " + b"1, " * 50_000 + b"1]]"), JSON, 422, "list of frames"),
        (b'{"seed": [' + b"1, " * 50_000 + b"1]}", JSON, 400, "150013 bytes are no frames"),
        (FRAMES.replace(b"}", b', "seed": [' + b"1, " * 50_000 + b"1]}"), JSON, 400, "bytes are no frames"),
        (FRAMES.replace(b"}", b', "sead": 1}'), JSON, 422, "unknown 'sead'"),
        (b"no sound", WAV, 422, "not a readable sound file"),
        (wav_file(np.zeros(8000 * 3, np.float32), 8000), WAV, 413, "longer than 2 s"),
        (wav_file(np.zeros(800, np.float32), 8000)[:-100], WAV, 422, "truncated"),
        (wav_file(np.zeros(0, np.float32), 8000), WAV, 422, "no samples"),
        (wav_file(np.zeros(10, np.float32), 8000), WAV, 422, "shorter than one frame"),
        (wav_file(np.zeros(9000, np.float32), 44101), WAV, 422, "44101 Hz"),
        (wav_file(np.full(800, np.nan, np.float32), 8000, subtype="FLOAT"), WAV, 422, "NaN"),
        (b"no form", FORM, 400, "cannot be read"),
        (b"--xyz--\r\n", FORM, 422, "0 parts"),
        (part(b"x"), FORM, 400, "no end"),
        (part(b"x") + b"--xyz--", "multipart/form-data", 400, "form"),
        (part(b"x") * 2 + b"--xyz--", FORM, 422, "2 parts, of which 2 are files"),
        (part(b"x") * 9 + b"--xyz--", FORM, 400, "more than 8 parts"),
        (part(b"x", 'form-data; name="seed"') + b"--xyz--", FORM, 422, "1 parts, of which 0 are files"),
        (part(b"x", kind="text/html") + b"--xyz--", FORM, 415, "'text/html'"),
    ],
)
def test_what_cannot_be_spoken_is_a_problem(
    parse: Callable[..., Any], content: bytes, header: str, status: int, rule: str
) -> None:
    with pytest.raises(Problem, match=rule) as raised:
        parse(content, header)
    assert raised.value.status == status
    assert len(raised.value.detail) < 400


def test_a_sound_is_decoded_no_further_than_it_may_be_spoken(parse: Callable[..., Any]) -> None:
    """An hour of silence is small as FLAC; its mel would not be."""
    content = wav_file(np.zeros(8000 * 3600, np.int16), 8000, format="FLAC")
    assert len(content) < 10**6
    with pytest.raises(Problem, match="longer than 2 s"):
        parse(content, "audio/flac")


def refuses_or_reads(parse: Callable[..., Any], content: bytes, header: str) -> None:
    try:
        parse(content, header)
    except Problem as problem:
        assert 400 <= problem.status < 500


@EXAMPLES
@given(data=st.data())
def test_no_change_of_a_npy_file_is_an_error_of_ours(parse: Callable[..., Any], data: st.DataObject) -> None:
    content = bytearray(npy(np.full((20, 4), -5.0, np.float32)))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, 140))
        content[place] = data.draw(st.integers(0, 255))
    refuses_or_reads(parse, bytes(content[: data.draw(st.integers(0, len(content)))]), NPY)


@EXAMPLES
@given(
    descr=st.sampled_from(["<f4", ">f8", "|O", "<c8", "|b1", "<U4", "|V3", "<M8[s]", "<f2", "f4", ""]),
    shape=st.lists(st.integers(0, 2**70), max_size=4),
    order=st.sampled_from(["True", "False", "None", "1"]),
    data=st.binary(max_size=200),
)
def test_no_npy_header_is_an_error_of_ours(
    parse: Callable[..., Any], descr: str, shape: list[int], order: str, data: bytes
) -> None:
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': ({', '.join(map(str, shape))}), }}"
    refuses_or_reads(parse, with_header(header, data), NPY)


@EXAMPLES
@given(data=st.data())
def test_no_change_of_a_wav_file_is_an_error_of_ours(parse: Callable[..., Any], data: st.DataObject) -> None:
    content = bytearray(wav_file(np.full(400, 0.1, np.float32), 8000))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, 60))] = data.draw(st.integers(0, 255))
    refuses_or_reads(parse, bytes(content[: data.draw(st.integers(0, len(content)))]), WAV)


@EXAMPLES
@given(rate=st.integers(1, 2**31 - 1), channels=st.integers(1, 40), samples=st.integers(0, 600))
def test_no_rate_or_number_of_channels_is_an_error_of_ours(
    parse: Callable[..., Any], rate: int, channels: int, samples: int
) -> None:
    content = wav_file(np.zeros((samples, channels), np.int16), 8000)
    assert content[24:28] == struct.pack("<I", 8000)
    refuses_or_reads(parse, content[:24] + struct.pack("<I", rate) + content[28:], WAV)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@EXAMPLES
@given(value=JSON_VALUES | st.fixed_dictionaries({"mel": JSON_VALUES}))
def test_no_json_is_an_error_of_ours(parse: Callable[..., Any], value: Any) -> None:
    refuses_or_reads(parse, json.dumps(value).encode(), JSON)


@EXAMPLES
@given(content=st.binary(max_size=300))
@pytest.mark.parametrize("header", [NPY, JSON, WAV, FORM])
def test_no_bytes_are_an_error_of_ours(parse: Callable[..., Any], content: bytes, header: str) -> None:
    refuses_or_reads(parse, content, header)
    if header == FORM:
        refuses_or_reads(parse, b"--xyz\r\n" + content + b"\r\n--xyz--", header)
