"""Program: one text on standard input, a voice as the argument, 16-bit mono samples on standard output.

eSpeak NG seeds its breath noise by the clock, and keeps pitch flutter in static variables that no call of it resets, so
the same sentence sounds a little different the second time. With a fixed seed, and in a process of its own, each
sentence is the first, hence always the same. This file imports nothing of the package, to start in milliseconds.
"""

import ctypes
import sys

import espeakng_loader

SAMPLE_RATE = 22050
RETRIEVAL, DONT_EXIT = 1, 0x8000  # AUDIO_OUTPUT_RETRIEVAL: samples go to the callback, within espeak_Synth
UTF8, POS_CHARACTER = 1, 1

Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


def synthesise(text: bytes, voice: bytes) -> bytes:
    library = ctypes.CDLL(espeakng_loader.get_library_path())
    rate = library.espeak_Initialize(RETRIEVAL, 0, espeakng_loader.get_data_path().encode(), DONT_EXIT)
    if rate != SAMPLE_RATE:
        sys.exit(f"eSpeak did not start (code {rate})")
    library.espeak_ng_SetRandSeed(ctypes.c_long(1))
    samples = bytearray()

    def collect(wav: int | None, count: int, events: int | None) -> int:
        if wav and count > 0:
            samples.extend(ctypes.string_at(wav, 2 * count))
        return 0  # go on

    callback = Callback(collect)  # must outlive the synthesis
    library.espeak_SetSynthCallback(callback)
    if library.espeak_SetVoiceByName(voice) != 0:
        sys.exit("eSpeak knows no such voice")
    size = ctypes.c_size_t(len(text) + 1)
    if library.espeak_Synth(text, size, 0, POS_CHARACTER, 0, UTF8, None, None) or library.espeak_Synchronize():
        sys.exit("eSpeak could not speak this text")
    return bytes(samples)


if __name__ == "__main__":
    sys.stdout.buffer.write(synthesise(sys.stdin.buffer.read(), sys.argv[1].encode()))
