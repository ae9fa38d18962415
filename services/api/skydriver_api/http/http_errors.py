"""Error texts and bodies: pure. Source: REST contract 1.3."""

import orjson

_LONGEST_PHRASE = 400


def error_body(status: int, text: str) -> bytes:
    """The JSON body of every error: ``error`` and ``reason`` repeat the reason phrase, ``message`` has all of it."""
    phrase = reason_phrase(text)
    return orjson.dumps({"error": phrase, "reason": phrase, "message": printable(text), "code": status})


def reason_phrase(text: str) -> str:
    """One line of printable ASCII, at most 400 characters: what Python clients show of an error."""
    line = " ".join(text.split()).encode("ascii", "replace").decode()
    line = "".join(char if " " <= char <= "~" else "?" for char in line)
    return line if len(line) <= _LONGEST_PHRASE else line[: _LONGEST_PHRASE - 3] + "..."


def printable(text: str) -> str:
    """The text without characters that can't be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()
