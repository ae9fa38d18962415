"""Texts that scanners, workers, EWMS and users wrote reach a terminal as data: nothing in them is obeyed."""

import ast
import contextlib
import io
import json
import sys
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Group
from rich.table import Table
from rich.text import Text

import skydriver_cli
from skydriver_cli import dead_commands, log_commands
from skydriver_cli.errors import CliError
from skydriver_cli.output import Terminal, json_text, line, print_json_document, print_note, print_unexpected
from skydriver_cli.watching import ProgressView, problem_lines, state_line
from skydriver_common.bus.dead_letter import DeadLetter
from skydriver_common.log.read import LoggedEvent
from skydriver_common.model.ids import ScanId
from skydriver_common.visible_text import visible, visible_json

TITLE = "ok\x1b]0;pwned\x07\x1b[2K\rADMIN: all scans deleted"
MARKUP = "[/bold][red]x[/nope]"
HOSTILE = [
    TITLE,
    MARKUP,
    "a\nb\r\nc",
    "\x9b2J\x90q\x9c",
    "\u202eexe.tset",
    "a\u2028b\u0085c",
    "\ud800",
    "[link=http://x]y[/link]",
    ":skull:",
]
texts = st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40), st.text(alphabet="[]/=\\red bold\x1b\n:", max_size=30))
few = settings(max_examples=60, deadline=None)


def _is_harmless(printed: str) -> bool:
    return not any(unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp") and each != "\n" for each in printed)


def _shown(*renderables: Any) -> str:
    terminal = Terminal()
    terminal.file = io.StringIO()
    terminal.width = 500
    terminal.print(*renderables)
    printed: str = terminal.file.getvalue()
    return printed


def _status(text: str) -> dict[str, Any]:
    return {"scan_state": text, "ewms_workforce": {"n_running": 1}, "problems": [{"text": text}], "scan_complete": False}


def _progress(text: str) -> dict[str, Any]:
    return {
        "processing_stats": {"rate": {"all recos": {"wall time": {"mean reco": text}}}, "predictions": {"time left": text}},
        "tallies": {"nsides": {text: {"pixels": {"done": 1, "generated": 2}}}},
    }


def _watched(text: str) -> str:
    view = ProgressView()
    view.show(_status(text), _progress(text))
    return _shown(view)


def _in_a_table(text: str) -> str:
    table = Table("scan", text, title=text, caption=text)
    table.add_row(text, line(text))
    return _shown(table)


SURFACES: dict[str, Callable[[str], str]] = {
    "a string": _shown,
    "a line": lambda text: _shown(line("a ", (text, "bold"))),
    "a text that is not made here": lambda text: _shown(Text(text)),
    "a group": lambda text: _shown(Group(Text(text), text)),
    "a table": _in_a_table,
    "an error": lambda text: _shown(line(("skydriver: ", "red"), str(CliError(text, text)))),
    "status": lambda text: _shown(state_line(_status(text)), *problem_lines(_status(text)["problems"])),
    "watch": _watched,
}


@pytest.mark.parametrize("surface", SURFACES)
@few
@given(text=texts)
def test_nothing_steers_the_terminal_and_no_markup_is_interpreted(surface: str, text: str) -> None:
    printed = SURFACES[surface](text)
    assert _is_harmless(printed)
    assert "\x1b" not in printed


@pytest.mark.parametrize("surface", ["a string", "a line", "a table", "an error", "status", "watch"])
def test_what_looks_like_markup_is_shown_as_written(surface: str) -> None:
    assert MARKUP in SURFACES[surface](MARKUP)


@pytest.mark.parametrize("surface", ["a string", "a line", "an error"])
def test_a_newline_in_a_text_does_not_begin_a_line(surface: str) -> None:
    assert SURFACES[surface]("one\ntwo").count("\n") == 1


@few
@given(text=texts)
def test_an_event_is_one_line_of_history_and_of_tail(text: str) -> None:
    written = text.encode(errors="replace").decode()  # the log is UTF-8
    logged = LoggedEvent(
        position=1, event_id=UUID(int=1), scan_id=ScanId("s"), version=1, type="scan.progress-reported", schema_version=1,
        recorded_at=datetime(2026, 1, 1, tzinfo=UTC), actor=text, command_id="c", correlation_id="c",
        data=json.dumps({"progress": {"summary": written}}).encode(),
    )  # fmt: skip
    for with_scan in (True, False):
        with contextlib.redirect_stdout(io.StringIO()) as screen:
            log_commands.show_event(logged, as_json=False, with_scan=with_scan)
        assert screen.getvalue().count("\n") == 1
        assert _is_harmless(screen.getvalue())


@few
@given(text=texts)
def test_json_keeps_its_value_and_steers_nothing(text: str) -> None:
    document = json_text({"text": text, text: [text]}, indent=2)
    assert _is_harmless(document)
    assert json.loads(document) == {"text": text, text: [text]}
    with contextlib.redirect_stdout(io.StringIO()) as screen:
        print_json_document(json.dumps({"text": text}, ensure_ascii=False))
    assert json.loads(screen.getvalue()) == {"text": text}
    assert _is_harmless(screen.getvalue())
    assert visible_json('{\n\t"a": 1}') == '{\n\t"a": 1}'


@few
@given(text=texts)
def test_notes_and_tracebacks_steer_nothing(text: str) -> None:
    with contextlib.redirect_stderr(io.StringIO()) as screen:
        print_note(text)
    assert screen.getvalue().count("\n") == 1
    assert _is_harmless(screen.getvalue())
    try:
        raise RuntimeError(text)
    except RuntimeError:
        with contextlib.redirect_stderr(io.StringIO()) as screen:
            print_unexpected(*sys.exc_info())
    assert "RuntimeError" in screen.getvalue()
    assert _is_harmless(screen.getvalue())


def test_every_steering_character_becomes_a_mark_and_the_rest_stays() -> None:
    for code in range(0x110000):
        character = chr(code)
        is_steering = unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        if is_steering or code < 0x3000:
            assert (visible(character) != character) == is_steering or unicodedata.category(character) == "Cn"
    assert visible("β = 0.5°, naïve 日本") == "β = 0.5°, naïve 日本"
    assert visible(TITLE) == r"ok\x1b]0;pwned\x07\x1b[2K\rADMIN: all scans deleted"


def test_the_command_line_prints_through_its_one_door() -> None:
    """A new command that makes a Console of rich or calls print would show a text as it came."""
    found = []
    for path in sorted(Path(skydriver_cli.__file__).parent.rglob("*.py")):
        if path.name == "output.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("print", "Console", "Text"):
                found.append(f"{path.name}:{node.lineno}")
            if isinstance(node, ast.Attribute) and node.attr in ("from_markup", "echo", "secho"):
                found.append(f"{path.name}:{node.lineno}")
    assert not found


@few
@given(text=texts)
def test_a_dead_letter_is_one_line(text: str) -> None:
    letter = DeadLetter(
        letter_id="3f1c09aa27de", message_id=text, queue=text, exchange=text, key=text, reason=text, first_reason=text,
        first_failed_at=1.0, last_failed_at=2.0, failures=2, traceback=text, body=b"", body_sha256="", headers={text: text},
    )  # fmt: skip
    for as_json in (False, True):
        with contextlib.redirect_stdout(io.StringIO()) as screen:
            dead_commands._show_line(letter, as_json=as_json)
        assert screen.getvalue().count("\n") == 1
        assert _is_harmless(screen.getvalue())
