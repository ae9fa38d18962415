"""``skydriver …``: the registration of all commands. Each prints with --help what it does, and an example.

Groups are imported when one of their commands is used, so that ``skydriver --help`` and the commands of users start quickly.
"""

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from skydriver_cli import change_commands, list_commands
from skydriver_cli.asyncapi_command import show_asyncapi
from skydriver_cli.errors import CliError
from skydriver_cli.metrics_command import metrics
from skydriver_cli.output import Terminal, line, print_unexpected
from skydriver_cli.scan_commands import result, status, submit, watch
from skydriver_cli.settings_command import show_settings
from skydriver_cli.sky_commands import compare, export, plot
from skydriver_cli.system_commands import demo, down, migrate, up


def _log() -> typer.Typer:
    from skydriver_cli import log_archive_commands, log_commands, log_proof_commands, log_replay_commands

    log = typer.Typer()
    for module in (log_commands, log_archive_commands, log_proof_commands, log_replay_commands):
        module.add_to(log)
    return log


def _dead() -> typer.Typer:
    from skydriver_cli.dead_commands import dead

    return dead


def _throttle() -> typer.Typer:
    from skydriver_cli.throttle_commands import throttle

    return throttle


def _sandbox() -> typer.Typer:
    from skydriver_cli.sandbox_commands import sandbox

    return sandbox


def _lazy_group(load: Callable[[], typer.Typer], help_text: str) -> typer.Typer:
    """Return a group whose commands are imported by ``load`` when they are first asked for."""

    class LazyGroup(TyperGroup):
        def list_commands(self, ctx: Any) -> list[str]:
            return list(self._loaded().commands)

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            return self._loaded().commands.get(cmd_name)

        def _loaded(self) -> TyperGroup:
            return typer.main.get_group(load())

    return typer.Typer(cls=LazyGroup, help=help_text, no_args_is_help=True)


app = typer.Typer(
    help="SkyDriver: scan the sky for the origin of a neutrino event.", no_args_is_help=True, rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)  # fmt: skip
for command in (up, down, status, submit, watch, result, plot, export, compare, demo, metrics, migrate):
    app.command()(command)
for module in (list_commands, change_commands):
    module.add_to(app)
app.command("settings")(show_settings)
app.command("asyncapi")(show_asyncapi)
app.add_typer(_lazy_group(_log, "The event log: what happened, who did it, and proof that nobody altered it."), name="log")
app.add_typer(
    _lazy_group(_dead, "Dead letters: messages that could not be processed. Inspect, redrive or discard them."), name="dead"
)
app.add_typer(
    _lazy_group(
        _throttle,
        "Limit how fast scans below priority 100 are launched: a minimum interval and a maximum number of running scans. "
        "Priority 100 and higher is exempt.",
    ),
    name="throttle",
)
app.add_typer(_lazy_group(_sandbox, "The EWMS stand-in that `skydriver up` starts."), name="sandbox")


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"skydriver {version('skydriver')}\n")
        raise typer.Exit


@app.callback()
def _root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> NoReturn:
    """Run the program: a CliError becomes one readable line and an exit code."""
    sys.excepthook = print_unexpected
    try:
        app(standalone_mode=True)
    except CliError as error:
        Terminal(stderr=True).print(line(("skydriver: ", "red"), str(error)), soft_wrap=True)
        sys.exit(error.exit_code)
    sys.exit(0)


if __name__ == "__main__":
    main()
