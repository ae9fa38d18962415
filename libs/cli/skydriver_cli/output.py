"""What the commands print. Every text goes through here: markup is not interpreted, and nothing in it steers the terminal."""

import json
import sys
import traceback
from collections.abc import Iterable
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text


def visible(text: str) -> str:
    r"""Return the text on one line, without credentials, and a mark such as ``\x1b`` for each character that steers a terminal."""
    from skydriver_common.redaction import redact_text  # here, so that `--help` imports no library of the services
    from skydriver_common.visible_text import visible

    return visible(redact_text(text))


class Terminal(Console):
    """A console for texts that came from outside. A string is one line of plain text; for styles use `line`, for JSON `json_block`."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **style: Any) -> Text:
        """Return the text as rich shows it, without markup or emoji codes."""
        return super().render_str(visible(text), **{**style, "markup": False, "emoji": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments of what is shown. The last gate: also of what was not made by `line`."""
        from skydriver_common.visible_text import visible_lines

        for segment in super().render(renderable, options):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield Segment("\n".join(visible_lines(segment.text)), segment.style)


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output: never coloured, every digit of every number."""
    print_json_document(json_text(value))
    sys.stdout.flush()


def print_json_document(document: str) -> None:
    """Print what already is JSON: the same value, with escapes in place of characters that steer a terminal."""
    from skydriver_common.visible_text import visible_json

    sys.stdout.write(visible_json(document) + "\n")


def print_note(text: str) -> None:
    """Print one line on standard error, beside the output."""
    print(visible(text), file=sys.stderr)


def print_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print the traceback of an error that nobody expected, without secrets; the `sys.excepthook` of the program."""
    from skydriver_common.redaction import redact_text
    from skydriver_common.visible_text import visible_lines

    text = redact_text("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write("\n".join(visible_lines(text)))


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return the value as JSON. Integers of any size keep their digits, NaN stays NaN (results contain it)."""
    from skydriver_common.visible_text import visible_json

    return visible_json(json.dumps(value, ensure_ascii=False, default=_plain, indent=indent))


def json_block(value: Any) -> Text:
    """Return the value as indented JSON of several lines, without credentials."""
    from skydriver_common.redaction import redact_document

    return Text(json_text(redact_document(json.loads(json_text(value))), indent=2))


def line(*parts: "str | tuple[str, str]") -> Text:
    """Return a line of text, or of (text, style) pairs, without interpreting markup."""
    return Text.assemble(*(visible(part) if isinstance(part, str) else (visible(part[0]), part[1]) for part in parts))


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
