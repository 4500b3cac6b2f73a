"""Program: one text on standard input, a voice as the argument; on standard output one line of JSON, the phones as
[[first sample, IPA], ...], then 16-bit mono samples.

eSpeak NG seeds its breath noise by the clock, and keeps pitch flutter in static variables that no call of it resets, so
the same sentence sounds a little different the second time. With a fixed seed, and in a process of its own, each
sentence is the first, hence always the same. This file imports nothing of the package, to start in milliseconds.
"""

import ctypes
import json
import sys

import espeakng_loader

SAMPLE_RATE = 22050
RETRIEVAL, DONT_EXIT = 1, 0x8000  # AUDIO_OUTPUT_RETRIEVAL: samples go to the callback, within espeak_Synth
PHONEME_EVENTS, PHONEME_IPA = 1, 2
UTF8, POS_CHARACTER = 1, 1
LIST_TERMINATED, PHONEME = 0, 7  # types of events


class Event(ctypes.Structure):
    """espeak_EVENT of speak_lib.h; `phoneme` is the union's text, at most 8 bytes and then without an end."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("phoneme", ctypes.c_char * 8),
    )


Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(Event))


def synthesise(text: bytes, voice: bytes) -> tuple[list[tuple[int, str]], bytes]:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    options = DONT_EXIT | PHONEME_EVENTS | PHONEME_IPA
    rate = library.espeak_Initialize(RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), options)
    if rate != SAMPLE_RATE:
        sys.exit(f"eSpeak did not start (code {rate})")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    phones: list[tuple[int, str]] = []
    samples = bytearray()

    def collect(wav: int | None, count: int, events: "ctypes._Pointer[Event]") -> int:
        if wav and count > 0:
            samples.extend(ctypes.string_at(wav, 2 * count))
        n = 0
        while events and events[n].type != LIST_TERMINATED:
            if events[n].type == PHONEME:
                phones.append((events[n].sample, events[n].phoneme.decode(errors="ignore")))
            n += 1
        return 0  # go on

    callback = Callback(collect)  # must outlive the synthesis
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice) != 0:
        sys.exit("eSpeak knows no such voice")
    size = ctypes.c_size_t(len(text) + 1)
    if library.espeak_Synth(text, size, 0, POS_CHARACTER, 0, UTF8, None, None) or library.espeak_Synchronize():
        sys.exit("eSpeak could not speak this text")
    return phones, bytes(samples)


if __name__ == "__main__":
    phones, samples = synthesise(sys.stdin.buffer.read(), sys.argv[1].encode())
    sys.stdout.buffer.write(json.dumps(phones).encode() + b"\n" + samples)
