"""``-o table|wide|name|json|jsonl|yaml`` and ``--fields``: how rows are printed. Only rows go to standard output."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, Self

import typer
from rich.table import Table

from skydriver_cli.output import Terminal, json_text, print_json, print_json_document


class Format(StrEnum):
    """table: for people. wide: with more columns. name: ids only. json: one document. jsonl: one document per line."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    JSONL = "jsonl"
    YAML = "yaml"


Output = Annotated[Format, typer.Option("-o", "--output", help="How to print: for people, or for scripts.")]
Fields = Annotated[
    str | None, typer.Option("--fields", help="Fields to print, joined by commas; a dot goes into an object: a.b,c.")
]
NoHeaders = Annotated[bool, typer.Option("--no-headers", help="A table without its head.")]
Row = Mapping[str, Any]


def print_rows(
    rows: Iterable[Row], output: Format, *, columns: Sequence[str], wide: Sequence[str] = (), fields: str | None = None,
    no_headers: bool = False, id_field: str = "scan_id",
) -> None:  # fmt: skip
    """Print rows; as `jsonl` and `name` each as it comes. columns, wide: of a table, and more of a wide one; as in ``fields``."""
    chosen = [field.strip() for field in fields.split(",") if field.strip()] if fields else []
    match output:
        case Format.NAME:
            for row in rows:
                Terminal().print(str(row[id_field]), soft_wrap=True, highlight=False)
        case Format.JSONL:
            for row in rows:
                print_json(_chosen(row, chosen))
        case Format.JSON:
            print_json_document(json_text([_chosen(row, chosen) for row in rows], indent=2))
        case Format.YAML:
            print_yaml([_chosen(row, chosen) for row in rows])
        case Format.TABLE | Format.WIDE:
            shown = chosen or [*columns, *(wide if output == Format.WIDE else ())]
            _print_table(rows, shown, no_headers=no_headers, is_wide=output == Format.WIDE)


class RowPrinter:
    """Prints rows that come one by one: lines at once, what is one document or table at the end of the ``with`` block."""

    def __init__(
        self, output: Format, *, columns: Sequence[str], wide: Sequence[str] = (), fields: str | None = None, no_headers: bool = False
    ) -> None:  # fmt: skip
        self._print = partial(print_rows, output=output, columns=columns, wide=wide, fields=fields, no_headers=no_headers)
        self._is_immediate = output in (Format.NAME, Format.JSONL)
        self._rows: list[Row] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._rows:
            self._print(self._rows)

    def add(self, row: Row) -> None:
        """Print a row, now or at the end."""
        if self._is_immediate:
            self._print([row])
        else:
            self._rows.append(row)


def print_document(document: Any, output: Format) -> None:
    """Print one document, as YAML where that is asked for."""
    if output == Format.YAML:
        print_yaml(document)
    else:
        print_json_document(json_text(document, indent=None if output == Format.JSONL else 2))


def print_yaml(value: Any) -> None:
    """Print a value as YAML; characters that steer a terminal become escapes."""
    import yaml

    text: str = yaml.safe_dump(json.loads(json_text(value)), allow_unicode=False, sort_keys=False, width=120)
    sys.stdout.write(text)


def value_at(row: Row, field: str) -> Any:
    """The value at ``a.b``, None where the path ends before."""
    value: Any = row
    for name in field.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _chosen(row: Row, fields: Sequence[str]) -> Row:
    return {field: value_at(row, field) for field in fields} if fields else row


def _print_table(rows: Iterable[Row], fields: Sequence[str], *, no_headers: bool, is_wide: bool) -> None:
    table = Table(*(field.rpartition(".")[2].replace("_", " ") for field in fields), show_header=not no_headers, box=None)
    for column in table.columns:
        column.no_wrap = is_wide
        column.overflow = "fold"
    for row in rows:
        table.add_row(*(_cell(field, value_at(row, field)) for field in fields))
    console = Terminal()
    if is_wide or not console.is_terminal:
        console.width = max(console.width, 400)
    console.print(table)


def _cell(field: str, value: Any) -> str:
    if value is None:
        return "-"
    if field == "timestamp" and isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, Mapping):
        return ",".join(f"{name}={each}" for name, each in value.items()) or "-"
    return str(value)
