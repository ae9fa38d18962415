"""Options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_DATA_DIR = Path("data")

DataDir = Annotated[
    Path, typer.Option("--data-dir", envvar="SKYDRIVER_DATA_DIR", help="Data directory of the embedded system.")
]
Url = Annotated[
    str | None,
    typer.Option("--url", help="URL of the REST API. Default: $SKYDRIVER_URL, or the embedded system in --data-dir."),
]
Token = Annotated[
    str | None, typer.Option("--token", help="Bearer token. Default: $SKYDRIVER_TOKEN, or the embedded system in --data-dir.")
]
DatabaseUrl = Annotated[
    str | None,
    typer.Option(
        "--database-url", help="URL of the database. Default: $SKYDRIVER_DATABASE_URL, or the embedded system in --data-dir."
    ),
]
AmqpUrl = Annotated[
    str | None,
    typer.Option("--amqp-url", help="URL of the broker. Default: $SKYDRIVER_AMQP_URL, or the embedded system in --data-dir."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for scripts: one document per line.")]
ScanIdArgument = Annotated[str, typer.Argument(metavar="SCAN_ID", help="Id of a scan, as `skydriver submit` prints it.")]
