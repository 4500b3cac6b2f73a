"""The body of a request -> the mel that it asks for, checked."""

from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve.decoding import NPY_MAGIC, Asked, decode
from serve.problems import Problem
from serve.vocoder import Vocoder

FORM = "multipart/form-data"
READ = f"audio/*, application/x-npy, application/json, or {FORM} with one file"
_MOST_PARTS = 8


def media_type(header: str) -> str:
    """The type that a Content-Type header names, if such a body is read.

    Raises:
        Problem: 415.
    """
    name = parse_options_header(header)[0].decode("latin-1").lower()
    if name.startswith("audio/") or name in ("application/x-npy", "application/json", FORM):
        return name
    raise Problem(415, f"the Content-Type is {name[:80]!r}, which is not read: send {READ}")


def parse_body(content: bytes, header: str, vocoder: Vocoder, max_seconds: float) -> Asked:
    """What a body with this Content-Type header asks for; see `decode`.

    Raises:
        Problem: 400, 413, 415, 422.
    """
    name = media_type(header)
    if not content:
        raise Problem(422, f"the body is empty: send {READ}")
    if name == FORM:
        content, name = _only_file(content, parse_options_header(header)[1].get(b"boundary", b""))
    return decode(content, name, vocoder, max_seconds)


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)


class _Form:
    """The parts of a form, as python-multipart calls them out."""

    def __init__(self) -> None:
        self.parts: list[_Part] = []
        self.ended = False
        self._name = self._value = b""

    def on_part_begin(self) -> None:
        if len(self.parts) == _MOST_PARTS:
            raise Problem(400, f"the form has more than {_MOST_PARTS} parts, and one file is needed: send that alone")
        self.parts.append(_Part())

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self.parts[-1].headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.parts[-1].content += data[start:end]

    def on_end(self) -> None:
        self.ended = True


def _only_file(content: bytes, boundary: bytes) -> tuple[bytes, str]:
    """Content and media type of the one file of a form."""
    form = _Form()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": form.on_part_begin,
                "on_header_field": form.on_header_field,
                "on_header_value": form.on_header_value,
                "on_header_end": form.on_header_end,
                "on_part_data": form.on_part_data,
                "on_end": form.on_end,
            },
        )
        parser.write(content)
        parser.finalize()
    except FormParserError as error:
        raise Problem(400, f"the form cannot be read ({str(error)[:100]}): send {FORM} as curl -F does") from None
    if not form.ended or not boundary:
        raise Problem(400, f"the form has no end, or no boundary: send {FORM} as curl -F does")
    files = [part for part in form.parts if b"filename" in parse_options_header(_header(part, "disposition"))[1]]
    if len(files) != 1 or len(form.parts) != 1:
        raise Problem(
            422,
            f"the form has {len(form.parts)} parts, of which {len(files)} are files: send one file alone, and seed, "
            "temperature and so on in the query",
        )
    part = files[0]
    name = parse_options_header(_header(part, "type"))[0].decode("latin-1").lower()
    if name in ("", "application/octet-stream"):
        name = "application/x-npy" if part.content[:6] == NPY_MAGIC or part.content[:2] == b"PK" else "audio/unnamed"
    return bytes(part.content), name


def _header(part: _Part, name: str) -> bytes:
    return part.headers.get(b"content-" + name.encode(), b"")
