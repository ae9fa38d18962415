"""``skydriver settings``: what can be set, as the services themselves list it."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from rich.table import Table

from skydriver_cli.errors import CliError
from skydriver_cli.output import Terminal, line, print_json
from skydriver_cli.services import SERVICES, service_settings

ALL_SERVICES = "every service"

_PAGE_HEAD = """# Settings

Made by `skydriver settings --markdown`. All are environment variables; a service does not start with a value that it cannot use and
prints one line per problem. An unknown `SKYDRIVER_…` name is a warning, and so is the old name of a setting, which still works.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One variable. default: as text, None if it is required. meaning: empty when the next one's covers it."""

    service: str
    name: str
    default: str | None
    meaning: str


def settings() -> Iterator[Setting]:
    """Yield every setting, those of all services first, in the order of their classes. Raises CliError."""
    from skydriver_common.runtime.settings import ServiceSettings
    from skydriver_common.runtime.settings_listing import describe_settings

    shared = [asdict(each) for each in describe_settings(ServiceSettings)]
    yield from (Setting(service=ALL_SERVICES, **each) for each in shared)
    shared_names = {each["name"] for each in shared}
    listings = service_settings()
    for service in sorted(SERVICES):
        own = (each for each in listings[service]["settings"] if each["name"] not in shared_names)
        yield from (Setting(service=service, **each) for each in own)


def markdown() -> str:
    """Return the page ``docs/operators/configuration.md``."""
    lines, service = [_PAGE_HEAD], ""
    for setting in settings():
        if setting.service != service:
            service = setting.service
            lines.append(f"\n## {service}\n\n| variable | default | meaning |\n|---|---|---|\n")
        default = "required" if setting.default is None else f"`{setting.default}`" if setting.default else "–"
        lines.append(f"| `{setting.name}` | {default} | {setting.meaning.replace('|', '&#124;')} |\n")
    return "".join(lines)


def show_settings(
    service: Annotated[
        str | None, typer.Argument(help=f"Only show the settings of this service: {', '.join(sorted(SERVICES))}.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for scripts: one document per line.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print the page docs/operators/configuration.md.")] = False,
) -> None:
    """List every setting: its variable, its default, what it means.

    Example: skydriver settings dispatcher
    """
    if service is not None and service not in SERVICES:
        raise CliError(f"unknown service {service!r}; services: {', '.join(sorted(SERVICES))}")
    if as_markdown:
        sys.stdout.write(markdown())
        return
    chosen = [setting for setting in settings() if service is None or setting.service in (ALL_SERVICES, service)]
    if as_json:
        for setting in chosen:
            print_json(asdict(setting))
        return
    table = Table("service", "variable", "default", "meaning")
    for setting in chosen:
        default = line(("required", "red")) if setting.default is None else line(setting.default)
        table.add_row(setting.service, setting.name, default, setting.meaning)
    Terminal().print(table)
