"""Requests made from the OpenAPI document: each is answered as documented, and none breaks the server.

To either address that speaks go SCHEMATHESIS_EXAMPLES of them, 100 by default. Bodies are whole, damaged, or whatever
else the document allows or forbids; of every kind some are whole.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from data.audio import encode_audio
from recipes.serve_load.asking import npy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TOKEN = "open-sesame"
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "100"))
RATE, HOP, BANDS = 8000, 64, 20  # of the voice
MOST = 1.0  # s of an utterance
NPY, WAV = "application/x-npy", "audio/wav"
FORM, JSON = "multipart/form-data", "application/json"
SPEAKING = ("/v1/synthesize", "/v1/stream")


@st.composite
def mels(draw: st.DrawFn) -> bytes:
    """Of up to a frame too many."""
    frames = draw(st.integers(1, round(MOST * RATE / HOP) + 1))
    noise = np.random.default_rng(draw(st.integers(0, 9))).standard_normal((BANDS, frames)) - 5
    mel = noise.astype(draw(st.sampled_from(["<f4", "<f8", ">f4", "<f2"])))
    return npy(np.asfortranarray(mel) if draw(st.booleans()) else mel)


@st.composite
def sounds(draw: st.DrawFn) -> bytes:
    """Of up to a tenth of a second too many."""
    rate = draw(st.sampled_from([RATE, 16000, 22050]))
    samples = draw(st.integers(rate // 10, round((MOST + 0.1) * rate)))
    noise = np.random.default_rng(draw(st.integers(0, 9))).standard_normal(samples)
    return encode_audio((0.1 * noise).astype(np.float32), rate, draw(st.sampled_from(["WAV", "FLAC"])))


@st.composite
def damaged(draw: st.DrawFn, whole: SearchStrategy[bytes]) -> bytes:
    content = bytearray(draw(whole))
    place = draw(st.integers(0, len(content) - 1))
    if draw(st.booleans()):
        return bytes(content[:place])
    content[place] ^= draw(st.integers(1, 255))
    return bytes(content)


def bodies() -> SearchStrategy[tuple[str, Any]]:
    """Media types and what is sent of them."""
    found = {
        NPY: mels() | damaged(mels()),
        WAV: sounds() | damaged(sounds()),
        FORM: sounds().map(lambda content: {"file": content}),
        JSON: st.integers(1, 9).map(lambda frames: {"mel": [[-6.0] * BANDS] * frames}),
    }
    return st.one_of(*(st.tuples(st.just(kind), content) for kind, content in found.items()))


def whole_bodies() -> dict[str, Any]:
    """One of every kind that nothing is wrong with; chance alone may find none."""
    noise = np.random.default_rng(0).standard_normal(RATE // 2)
    sound = encode_audio(0.1 * noise.astype(np.float32), RATE, "WAV")
    mel = np.full((BANDS, 9), -6.0, np.float32)
    return {NPY: npy(mel), WAV: sound, FORM: {"file": sound}, JSON: {"mel": mel.T.tolist()}}


def test_every_answer_is_documented_and_none_is_a_failure(start_server: Callable[..., Any], toy_student: Path) -> None:
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        status_code_conformance,
    )

    for kind in (NPY, WAV):
        schemathesis.serializer(kind)(
            lambda context, value: value if isinstance(value, bytes) else repr(value).encode()
        )
    server = start_server("--checkpoint", toy_student, "--token", TOKEN, "--max-seconds", MOST)
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    outcomes: set[tuple[str, str | None, int]] = set()

    def named(context: Any, response: Any, case: Any) -> None:
        """Whatever the answer tells in a header of ours, the document names."""
        documented = case.operation.definition.raw["responses"].get(str(response.status_code), {}).get("headers", {})
        told = {name.lower() for name in response.headers if name.lower().startswith("x-")}
        assert told <= {name.lower() for name in documented}

    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance]
    for found in schema.get_all_operations():
        operation = found.ok()
        cases = operation.as_strategy() | operation.as_strategy(GenerationMode.NEGATIVE)
        if operation.path in SPEAKING:
            cases |= bodies().flatmap(
                lambda body, operation=operation: operation.as_strategy(media_type=body[0], body=body[1])
            )

        def answered_as_documented(case: Any) -> None:
            answer = case.call_and_validate(headers=headers, checks=[*checks, named], timeout=60)
            outcomes.add((case.path, case.media_type, answer.status_code))

        asked = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        asked(given(case=cases)(answered_as_documented))()
        if operation.path in SPEAKING:
            for kind, body in whole_bodies().items():
                answered_as_documented(operation.Case(media_type=kind, body=body))
        assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
    spoken = {(path, kind) for path, kind, status in outcomes if status == 200}
    assert spoken >= {(path, kind) for path in SPEAKING for kind in (NPY, WAV, JSON, FORM)}
    assert server.counted("wavenet_running_requests") == 0
    assert server.stop() == 0
