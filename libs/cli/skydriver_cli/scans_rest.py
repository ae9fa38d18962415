"""What the commands about scans share: the client, its errors as exit codes, scan ids from arguments and standard input."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skydriver_cli.errors import CliError
from skydriver_cli.output import print_note

if TYPE_CHECKING:
    from skydriver_client import SkyDriver, SkyDriverError
    from skydriver_client.servers import Server

FAILED, USAGE, SCAN_FAILED, NO_LOGIN, NOT_FOUND, TIMED_OUT, INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

Context = Annotated[
    str | None,
    typer.Option("--context", help="Name of a server in ~/.config/skydriver/config.toml. Default: $SKYDRIVER_CONTEXT."),
]
ScanIds = Annotated[list[str], typer.Argument(metavar="SCAN_ID...", help="Ids of scans; `-` reads them from standard input.")]
MAX_IDS = 10_000


@contextmanager
def connected(url: str | None, token: str | None, context: str | None, data_dir: Path) -> "Iterator[SkyDriver]":
    """A client of the server that is meant. Its errors become one line and an exit code. Raises CliError."""
    from skydriver_client import SkyDriver, SkyDriverError
    from skydriver_client.servers import of_data_dir

    try:
        if not url and not os.environ.get("SKYDRIVER_URL") and is_local(data_dir, context):
            server = of_data_dir(data_dir)
            url, token = server.url, token or server.token
        with SkyDriver(url, token=token, context=context, data_dir=data_dir) as client:
            yield client
    except SkyDriverError as error:
        raise as_cli_error(error) from error
    except KeyboardInterrupt:
        raise CliError("interrupted", exit_code=INTERRUPTED) from None


def is_local(data_dir: Path, context: str | None) -> bool:
    """Whether the embedded system is meant: one runs in the data directory, and no context is chosen."""
    return not (context or os.environ.get("SKYDRIVER_CONTEXT")) and (data_dir / "connection.json").exists()


def profile_server(*, has_token: bool) -> "Server | None":
    """The server that the profile file names, None when it names none. Raises CliError."""
    from skydriver_client import SkyDriverError
    from skydriver_client.servers import find_server, read_profile

    try:
        if not (os.environ.get("SKYDRIVER_CONTEXT") or read_profile().get("current")):
            return None
        return find_server(has_token=has_token)
    except SkyDriverError as error:
        raise as_cli_error(error) from error


def as_cli_error(error: "SkyDriverError") -> CliError:
    """The line and the exit code of an error of the client."""
    from skydriver_client import NoCredentials, NotFound, ScanFailed, Unauthorized, WaitTimedOut

    code, advice = FAILED, ""
    match error:
        case Unauthorized():
            code, advice = NO_LOGIN, "Give a valid --token"
        case NoCredentials():
            code, advice = NO_LOGIN, "Start a system with `skydriver up`, or give --url and --token"
        case NotFound():
            code, advice = NOT_FOUND, "`skydriver list` shows the scans that there are"
        case ScanFailed():
            code = SCAN_FAILED
        case WaitTimedOut():
            code = TIMED_OUT
    return CliError(str(error), advice, exit_code=code)


def scan_ids(words: Sequence[str]) -> list[str]:
    """The ids that were given, each once; `-` stands for those on standard input. Raises CliError."""
    found: list[str] = []
    for word in words:
        found += sys.stdin.read().split() if word == "-" else [word]
    ids = list(dict.fromkeys(found))
    if not ids:
        raise CliError("there is no scan id on standard input", exit_code=USAGE)
    if len(ids) > MAX_IDS:
        raise CliError(f"{len(ids)} scan ids are too many: {MAX_IDS} at most", exit_code=USAGE)
    return ids


def for_each(ids: Sequence[str], work: Callable[[str], None]) -> None:
    """Do the work for each scan, also after a failure. Raises CliError, of several scans with the exit code of the first failure."""
    from skydriver_client import SkyDriverError

    failures: list[CliError] = []
    for scan_id in ids:
        try:
            work(scan_id)
        except SkyDriverError as error:
            failure = as_cli_error(error)
            if len(ids) == 1:
                raise failure from error
            failures.append(failure)
            print_note(f"{scan_id}: {failure.what}")
    if failures:
        raise CliError(f"{len(failures)} of {len(ids)} scans failed", exit_code=failures[0].exit_code)
