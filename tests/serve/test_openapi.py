"""Thousands of requests made from the OpenAPI document: each is answered as documented, and none breaks the server."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TOKEN = "open-sesame"
EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "100"))  # an address


def test_every_answer_is_documented_and_none_is_a_failure(start_server: Callable[..., Any], toy_student: Path) -> None:
    import schemathesis
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

    for kind in ("audio/wav", "application/x-npy"):
        schemathesis.serializer(kind)(
            lambda context, value: value if isinstance(value, bytes) else repr(value).encode()
        )
    server = start_server("--checkpoint", toy_student, "--token", TOKEN, "--max-seconds", 1)
    schema = schemathesis.openapi.from_url(server.url + "/openapi.json")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    checks = [not_a_server_error, status_code_conformance, content_type_conformance]
    for found in schema.get_all_operations():
        operation = found.ok()

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy())
        def answered_as_documented(case: Any) -> None:
            case.call_and_validate(headers=headers, checks=checks, timeout=60)

        answered_as_documented()
        assert httpx.get(server.url + "/readyz", timeout=60).status_code == 200
    assert server.counted("wavenet_running_requests") == 0
    assert server.stop() == 0
