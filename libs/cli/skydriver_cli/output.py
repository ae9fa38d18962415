"""What the commands print: JSON for scripts, and text from outside that is shown as it is written."""

import json
import sys
from datetime import datetime
from typing import Any

from rich.text import Text


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output: no colours whatever the environment asks for, every digit of every number."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """The value as JSON. Integers of any size keep their digits, NaN stays NaN (results hold it)."""
    return json.dumps(value, ensure_ascii=False, default=_plain, indent=indent)


def line(*parts: "str | tuple[str, str]") -> Text:
    """A line of text, or of (text, style) pairs; no part is read as markup."""
    return Text.assemble(*parts)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
