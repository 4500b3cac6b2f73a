"""The web page at `/`: a handful of files that name no other host, and may reach none."""

from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import FileResponse, Response

PAGE = Path(__file__).parent / "page"
INDEX = "index.html"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "microphone=(self)",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def add_page(app: FastAPI) -> None:
    """An address for every file of the page, and no other."""
    for path in PAGE.iterdir():
        _add(app, f"/{path.name}", path)
    _add(app, "/", PAGE / INDEX)


def _add(app: FastAPI, address: str, path: Path) -> None:
    async def answer(_: Request) -> Response:
        return FileResponse(path, headers=HEADERS, media_type=_TYPES[path.suffix])

    app.add_route(address, answer, include_in_schema=False)
