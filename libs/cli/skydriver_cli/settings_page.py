"""``skydriver settings``: what can be set, read off the settings classes themselves."""

import importlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from rich.console import Console
from rich.table import Table

from skydriver_cli.errors import Problem
from skydriver_common.runtime.settings import PREFIX, ServiceSettings

SERVICES: dict[str, tuple[str, str]] = {
    "api": ("skydriver_api.settings", "ApiSettings"),
    "dispatcher": ("skydriver_dispatcher.settings", "DispatcherSettings"),
    "ewms_bridge": ("skydriver_ewms_bridge.settings", "BridgeSettings"),
    "progress": ("skydriver_progress.settings", "ProgressSettings"),
}
"""Service to the module and the class of its settings."""
ALL = "every service"

_HEAD = """# Settings

Made by `skydriver settings --markdown`. All are environment variables; a service refuses to start on a value that it can't
use and on a `SKYDRIVER_…` name that nobody knows, with one line per problem.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable. default: as text; None: it has to be set. meaning: empty when the next one's covers it."""

    service: str
    name: str
    default: str | None
    meaning: str


def settings() -> Iterator[Setting]:
    """Every setting, those of all services first, in the order of their classes."""
    shared = ServiceSettings.model_fields
    yield from (_setting(ALL, name, field) for name, field in shared.items())
    for service, (module, name) in SERVICES.items():
        fields = getattr(importlib.import_module(module), name).model_fields
        yield from (_setting(service, field_name, field) for field_name, field in fields.items() if field_name not in shared)


def names_by_service() -> dict[str, frozenset[str]]:
    """Return the variables that each service reads, those of all services included."""
    return {service: getattr(importlib.import_module(module), name).names() for service, (module, name) in SERVICES.items()}


def markdown() -> str:
    """The page ``docs/operators/configuration.md``."""
    lines, service = [_HEAD], ""
    for one in settings():
        if one.service != service:
            service = one.service
            lines.append(f"\n## {service}\n\n| variable | default | meaning |\n|---|---|---|\n")
        default = "required" if one.default is None else f"`{one.default}`" if one.default else "–"
        lines.append(f"| `{one.name}` | {default} | {one.meaning.replace('|', '&#124;')} |\n")
    return "".join(lines)


def show_settings(
    service: Annotated[str | None, typer.Argument(help=f"Only of one service: {', '.join(SERVICES)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document per line, for scripts.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The page docs/operators/configuration.md.")] = False,
) -> None:
    """List every setting: its variable, its default, what it means.

    Example: skydriver settings dispatcher
    """
    if service is not None and service not in SERVICES:
        raise Problem(f"there is no service {service!r}; there are {', '.join(SERVICES)}")
    if as_markdown:
        print(markdown(), end="")
        return
    chosen = [one for one in settings() if service is None or one.service in (ALL, service)]
    if as_json:
        for one in chosen:
            print(json.dumps(asdict(one)))
        return
    table = Table("service", "variable", "default", "meaning")
    for one in chosen:
        table.add_row(one.service, one.name, "[red]required[/red]" if one.default is None else one.default, one.meaning)
    Console().print(table)


def _setting(service: str, name: str, field: FieldInfo) -> Setting:
    meaning = " ".join((field.description or "").replace("``", "`").split())
    return Setting(service=service, name=f"{PREFIX}{name.upper()}", default=_default(field), meaning=meaning)


def _default(field: FieldInfo) -> str | None:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return None
    return "" if value is None else json.dumps(value) if isinstance(value, dict | list | tuple | bool) else str(value)
