"""What the commands print: JSON for scripts, and text whose markup is not interpreted."""

import json
import sys
from datetime import datetime
from typing import Any

from rich.text import Text


def print_json(value: Any) -> None:
    """Print one line of JSON on standard output: never coloured, every digit of every number."""
    sys.stdout.write(json_text(value) + "\n")
    sys.stdout.flush()


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return the value as JSON. Integers of any size keep their digits, NaN stays NaN (results contain it)."""
    return json.dumps(value, ensure_ascii=False, default=_plain, indent=indent)


def line(*parts: "str | tuple[str, str]") -> Text:
    """Return a line of text, or of (text, style) pairs, without interpreting markup."""
    return Text.assemble(*parts)


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
