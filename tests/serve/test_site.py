"""The files of the page: all there, self-contained, under a policy that lets them reach no other host."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from serve.app import create_app
from serve.service import Service
from serve.settings import ServeConfig
from serve.site import PAGE


@pytest.fixture(scope="module")
def client(toy_student: Path) -> Iterator[TestClient]:
    """Of an application that has not begun to load anything."""
    service = Service(ServeConfig(checkpoints={"ada": toy_student}), 1)
    yield TestClient(create_app(service, lambda error: None))
    service._pool.shutdown()


def test_every_file_that_the_page_names_is_served(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"].startswith("text/html")
    assert index.text == (PAGE / "index.html").read_text(encoding="utf-8")
    named = set(re.findall(r'(?:src|href)="([^"]+)"', index.text)) - {"openapi.json"}
    for script in PAGE.glob("*.js"):
        named |= set(re.findall(r'from "\./([^"]+)"', script.read_text(encoding="utf-8")))
    assert named == {path.name for path in PAGE.iterdir()} - {"index.html"}
    for name in named:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200
        kind = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}[name.rpartition(".")[2]]
        assert answer.headers["content-type"].startswith(kind)


def test_the_files_are_in_the_package() -> None:
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert "page/*" in settings["tool"]["setuptools"]["package-data"]["serve"]
    assert all(path.is_file() for path in PAGE.iterdir())


def test_the_policy_lets_the_page_reach_nobody_else(client: TestClient) -> None:
    for path in ("/", *(f"/{path.name}" for path in PAGE.iterdir())):
        headers = client.get(path).headers
        rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
        assert rules.pop("default-src") == "'none'"
        assert set(rules.values()) == {"'self'", "'none'"}
        assert headers["x-content-type-options"] == "nosniff"
    for path in PAGE.iterdir():
        foreign = set(re.findall(r"[a-z]+://[^\s\"']+", path.read_text(encoding="utf-8")))
        assert foreign <= {"http://www.w3.org/2000/svg"}, path


@pytest.mark.parametrize("path", ["/nothing", "/page/app.js", "/../site.py", "/%2e%2e/site.py", "/app.py"])
def test_there_is_nothing_else(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.json()["detail"].startswith("there is nothing at this address")
    assert client.post("/").status_code == 405
    assert "/" not in client.get("/openapi.json").json()["paths"]
