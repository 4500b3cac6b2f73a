"""Sound files: every format, every refusal, and writing that is all or nothing."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import soundfile

from data.audio import (
    FORMATS,
    SOUND_SUFFIXES,
    AudioError,
    from_pcm,
    read_audio,
    resample,
    to_pcm,
    write_wav,
)
from data.containers import LAST, PAGE, sample_bytes

RATE = 16000


def tone(seconds: float = 0.5, rate: int = RATE, hertz: float = 440.0) -> npt.NDArray[np.float32]:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


LOSSY = {"MP3", "OGG"}


@pytest.mark.parametrize("kind", FORMATS)
def test_it_reads_all_of_its_formats(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    soundfile.write(path, tone(), RATE, format=kind)
    wav, rate = read_audio(path)
    assert path.suffix in SOUND_SUFFIXES
    assert (rate, wav.dtype, wav.shape) == (RATE, np.float32, (8000,))
    assert np.abs(wav - tone())[500:-500].max() < (0.1 if kind in LOSSY else 1e-4)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("kind", "endian"), [*((kind, "FILE") for kind in FORMATS), ("WAV", "BIG"), ("AU", "LITTLE"), ("CAF", "LITTLE")]
)
def test_the_beginning_of_a_file_is_no_sound(kind: str, endian: str, share: float, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole", tmp_path / "part"
    soundfile.write(whole, tone(5.0), RATE, format=kind, endian=endian)
    assert len(read_audio(whole)[0]) == 80000
    part.write_bytes(whole.read_bytes()[: round(share * whole.stat().st_size)])
    with pytest.raises(AudioError, match=r"part: (truncated|not a readable)"):
        read_audio(part)


def encoded(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone(), RATE, format=kind, **options)
    return file.getvalue()


def ogg_page(head: bytes, flags: int, body: bytes = b"") -> bytes:
    """`head`, from `OggS` to the table of segments, with other flags and the checksum that follows."""
    page = bytearray(head[:5] + bytes([flags]) + head[6:22] + bytes(4) + head[26:] + body)
    checksum = 0
    for byte in page:
        checksum ^= byte << 24
        for _ in range(8):
            checksum = (checksum << 1 ^ 0x104C11DB7 * (checksum >> 31)) & 0xFFFFFFFF
    page[22:26] = checksum.to_bytes(4, "little")
    return bytes(page)


def test_an_ogg_whose_last_page_is_empty_is_whole(tmp_path: Path) -> None:
    """RFC 3533 allows it: whoever wrote it did not know, at its last samples, that they were the last."""
    pages, _, last = encoded("OGG").rpartition(b"OggS")
    head, body = b"OggS" + last[: 23 + last[22]], last[23 + last[22] :]
    number = int.from_bytes(head[18:22], "little")
    empty = head[:18] + (number + 1).to_bytes(4, "little") + bytes(5)
    whole = pages + ogg_page(head, 0, body) + ogg_page(empty, LAST)
    (tmp_path / "whole").write_bytes(whole)
    assert len(read_audio(tmp_path / "whole")[0]) == 8000
    for missing in (1, PAGE, PAGE + 1):
        (tmp_path / "part").write_bytes(whole[:-missing])
        with pytest.raises(AudioError, match="part: truncated: its header promises a last page"):
            read_audio(tmp_path / "part")


@pytest.mark.parametrize("bytes_", [1, 70_000, 300_000])
def test_an_ogg_that_other_bytes_follow_is_whole_or_not_by_its_last_page(bytes_: int, tmp_path: Path) -> None:
    (tmp_path / "whole").write_bytes(encoded("OGG") + bytes(bytes_))
    assert len(read_audio(tmp_path / "whole")[0]) == 8000
    pages = encoded("OGG").rpartition(b"OggS")[0]
    (tmp_path / "part").write_bytes(pages + bytes(bytes_))
    with pytest.raises(AudioError, match="part: truncated: its header promises a last page"):
        read_audio(tmp_path / "part")


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_does_not_state_its_length_is_not_read(mode: str, tmp_path: Path) -> None:
    stated = encoded("MP3", bitrate_mode=mode, compression_level=0.5)
    (tmp_path / "a").write_bytes(stated)
    assert len(read_audio(tmp_path / "a")[0]) == 8000
    picture = b"ID3\x04\0\0\0\0\x40\0" + bytes(64 << 7)
    (tmp_path / "a").write_bytes(picture + stated)
    assert len(read_audio(tmp_path / "a")[0]) == 8000
    frames = stated[stated.index(stated[:2], 2) :]  # of the first one, silent, the tag is a part
    for end in (len(frames), len(frames) // 2):
        for before in (b"", picture):
            (tmp_path / "a").write_bytes(before + frames[:end])
            with pytest.raises(AudioError, match=r"a: .* format MP3 without a Xing .*; convert it to WAV or FLAC"):
                read_audio(tmp_path / "a")


@pytest.mark.parametrize("kind", ["SVX", "VOC", "NIST", "IRCAM", "PAF"])
def test_a_format_that_hides_its_truncation_is_not_read_at_all(kind: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a", tone(), RATE, format=kind, subtype="PCM_16")
    with pytest.raises(AudioError, match=rf"a: .* format {kind} .*; convert it to WAV or FLAC"):
        read_audio(tmp_path / "a")
    assert f".{kind.lower()}" not in SOUND_SUFFIXES


def test_what_the_system_refuses_to_read_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", tone(), RATE)

    def forbid(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", forbid)
    with pytest.raises(AudioError, match=r"a\.wav: cannot be read \(Permission denied\); mend that, or leave it out"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("unknown", ["RF64", "W64", "CAF", "AU"])
def test_a_container_of_unknown_length_is_read_to_its_end(unknown: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    soundfile.write(path, tone(), RATE, format=unknown, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    at, width = {"RF64": (28, 8), "AU": (8, 4)}.get(unknown) or (
        content.index(b"data") + (16 if unknown == "W64" else 4),
        8,
    )
    content[at : at + width] = b"\xff" * width
    assert sample_bytes(io.BytesIO(content)) is None


def test_channels_are_averaged(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "stereo.wav", np.stack([tone(), -0.5 * tone()], axis=1), RATE, subtype="FLOAT")
    np.testing.assert_allclose(read_audio(tmp_path / "stereo.wav")[0], 0.25 * tone(), atol=1e-7)


def test_a_wav_with_further_chunks_and_one_from_a_pipe_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_wav(path, tone(), RATE)
    content = path.read_bytes()
    path.write_bytes(content[:12] + b"note\x03\x00\x00\x00abc\x00" + content[12:] + b"LIST\x04\x00\x00\x00abcd")
    assert len(read_audio(path)[0]) == 8000
    path.write_bytes(content[:40] + b"\xff\xff\xff\xff" + content[44:])  # the length was unknown when it was written
    assert len(read_audio(path)[0]) == 8000


def damaged(case: str, folder: Path) -> Path:
    path = folder / f"{case.replace(' ', '_')}.wav"
    if case == "empty":
        path.touch()
    elif case == "beginning of a tag":
        path.write_bytes(b"ID3\x04")
    elif case == "text":
        path.write_text("This is no sound.", encoding="utf-8")
    elif case == "no samples":
        soundfile.write(path, np.zeros(0), RATE)
    elif case in ("NaN", "infinity"):
        wav = tone()
        wav[100] = np.nan if case == "NaN" else np.inf
        soundfile.write(path, wav, RATE, subtype="FLOAT")
    elif case == "folder":
        path.mkdir()
    elif case.startswith("truncated"):
        kind = case.split()[1]
        path = path.with_suffix(f".{kind}")
        soundfile.write(path, tone(), RATE)
        keep = 30 if case.endswith("header") else path.stat().st_size // 2
        path.write_bytes(path.read_bytes()[:keep])
    elif case == "headerless":
        path = path.with_suffix(".raw")
        path.write_bytes(bytes(100))
    return path


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("missing", "no such file; check the path"),
        ("folder", "no such file; check the path"),
        ("empty", "empty .0 bytes"),
        ("text", "not a readable sound file .*; convert it"),
        ("beginning of a tag", "not a readable sound file .*; convert it"),
        ("headerless", "not a readable sound file .*; convert it"),
        ("no samples", "holds no samples"),
        ("NaN", "1 samples are NaN or infinite; export it again"),
        ("infinity", "1 samples are NaN or infinite; export it again"),
        ("truncated wav", "truncated: its header promises 16000 bytes of samples, the file holds 7978; copy it again"),
        ("truncated wav header", "truncated: .* the file holds none"),
        ("truncated aiff", "truncated: its header promises"),
        ("truncated flac", "not a readable sound file"),
        ("truncated mp3", "truncated: its header promises"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_a_remedy(case: str, message: str, tmp_path: Path) -> None:
    path = damaged(case, tmp_path)
    with pytest.raises(AudioError, match=message) as error:
        read_audio(path)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("new_rate", [8000, 22050, 24000, 48000])
def test_resampling_keeps_a_tone(new_rate: int) -> None:
    resampled = resample(tone(), RATE, new_rate)
    assert resampled.dtype == np.float32
    assert len(resampled) == -(-8000 * new_rate // RATE)
    middle = slice(new_rate // 10, -new_rate // 10)
    assert np.abs(resampled - tone(rate=new_rate))[middle].max() < 1e-3


def test_resampling_removes_what_would_alias() -> None:
    assert np.abs(resample(tone(hertz=6000.0), RATE, 8000)[400:-400]).max() < 1e-3


@pytest.mark.parametrize(("rate", "new_rate"), [(22051, 22050), (22050, 22051), (16000, 48001)])
def test_rates_without_a_common_divisor_are_refused_with_a_remedy(rate: int, new_rate: int) -> None:
    with pytest.raises(AudioError, match=f"rate is {rate} Hz, and there is no short way from it to {new_rate} Hz"):
        resample(tone(), rate, new_rate)


def test_the_same_rate_is_left_alone() -> None:
    assert resample(tone(), RATE, RATE).tobytes() == tone().tobytes()


def test_16_bit_samples_survive_the_round_trip(tmp_path: Path) -> None:
    pcm = np.arange(-32768, 32768, dtype=np.int32).astype(np.int16)
    assert np.array_equal(to_pcm(from_pcm(pcm)), pcm)
    write_wav(tmp_path / "a.wav", from_pcm(pcm), RATE)
    assert np.array_equal(read_audio(tmp_path / "a.wav")[0], from_pcm(pcm))
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"


def test_writing_clips_to_full_scale(tmp_path: Path) -> None:
    write_wav(tmp_path / "a.wav", np.array([-2.0, -1.0, 1.0, 2.0]), RATE)
    assert read_audio(tmp_path / "a.wav")[0].tolist() == [-1.0, -1.0, 1 - 2**-15, 1 - 2**-15]


@pytest.mark.parametrize("wav", [np.zeros((1, 5)), np.array([0.0, np.nan]), np.array([np.inf])])
def test_what_is_no_waveform_is_not_written(wav: npt.NDArray[np.float64], tmp_path: Path) -> None:
    with pytest.raises(AudioError, match=r"a\.wav"):
        write_wav(tmp_path / "a.wav", wav, RATE)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_wav(tmp_path / "a.wav", tone(), RATE)
    before = (tmp_path / "a.wav").read_bytes()

    def full(path: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match=r"No space left.*a\.wav"):
        write_wav(tmp_path / "a.wav", np.zeros(9), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_bytes() == before
