"""Texts that came from outside, as a terminal or a log file may have them: what would steer it is shown as a mark.

Scanners, workers, EWMS, Kubernetes and users write texts that end up before an operator. An escape sequence in one of them could
rename the window, delete a line above or pretend to be another line. All of them go through here before they are shown.
"""

import re

__all__ = ["visible", "visible_json", "visible_lines"]

# Controls (C0, DEL, C1), what has no width or turns the direction of writing (category Cf), separators of lines and
# paragraphs, unpaired surrogates (no encoding has them), and the tags of plane 14.
_FORMAT = (
    "\u00ad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
_STEERING = re.compile(rf"[\x00-\x1f\x7f-\x9f\ud800-\udfff{_FORMAT}]")
_STEERING_IN_JSON = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff{_FORMAT}]")
_NAMED = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def visible(text: str) -> str:
    r"""Return the text on one line, with a mark such as ``\x1b`` in place of each character that steers a terminal."""
    return _STEERING.sub(_mark, text)


def visible_lines(text: str) -> list[str]:
    """Return the lines of a text of several lines, such as a traceback, each made visible. Only a newline ends a line."""
    return [visible(line) for line in text.split("\n")]


def visible_json(document: str) -> str:
    r"""Return a JSON document with the same value, in which such characters are written as ``\u001b``.

    Line breaks and tabs between the values stay: within a string JSON has none.
    """
    return _STEERING_IN_JSON.sub(_json_mark, document)


def _mark(found: "re.Match[str]") -> str:
    character = found.group()
    code = ord(character)
    return _NAMED.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )


def _json_mark(found: "re.Match[str]") -> str:
    code = ord(found.group())
    if code < 0x10000:
        return f"\\u{code:04x}"
    high, low = divmod(code - 0x10000, 0x400)
    return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
