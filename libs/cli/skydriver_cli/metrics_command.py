"""``skydriver metrics``: the figures of the services on this machine."""

import asyncio
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DataDir
from skydriver_cli.output import Terminal, line, print_json

out, err = Terminal(), Terminal(stderr=True)


def metrics(
    prefix: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Show metrics whose names begin so, with or without skydriver_.")
    ] = "",
    raw: Annotated[bool, typer.Option("--raw", help="Print what Prometheus would scrape, buckets included.")] = False,
    as_json: AsJson = False,
    data_dir: DataDir = DEFAULT_DATA_DIR,
) -> None:
    """Show the metrics of the services that `skydriver up` runs on this machine.

    Example: skydriver metrics backlog
    """
    texts = asyncio.run(_ask(data_dir))
    if raw:
        for name, text in texts.items():
            sys.stdout.write(f"# {name}\n{text}")
        return
    rows = [row for name, text in texts.items() for row in _rows(name, text, prefix)]
    if not rows:
        raise CliError(f"no metric begins with {prefix!r}", "See docs/operators/metrics.md")
    if as_json:
        for row in rows:
            print_json(row)
        return
    table = Table("metric", "labels", Column("value", justify="right"), "service")
    for row in sorted(rows, key=lambda row: (row["metric"], sorted(row["labels"].items()), row["service"])):
        labels = ", ".join(f"{name}={value}" for name, value in row["labels"].items())
        table.add_row(line(row["metric"]), line(labels), _shown(row["value"]), line(row["service"]))
    out.print(table)


async def _ask(data_dir: Path) -> dict[str, str]:
    from skydriver_cli.embedded.health import ask_all

    told = await ask_all(data_dir, "/metrics")
    for each in told:
        if each.text is None:
            err.print(line(f"{each.process} does not respond"))
    return {each.process: each.text for each in told if each.text is not None}


def _rows(service: str, text: str, prefix: str) -> Iterator[dict[str, Any]]:
    """Samples without buckets; of a histogram, its count and its mean."""
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(text):
        sums = {tuple(sorted(one.labels.items())): one.value for one in family.samples if one.name.endswith("_sum")}
        for sample in family.samples:
            if not sample.name.removeprefix("skydriver_").startswith(prefix.removeprefix("skydriver_")):
                continue
            if not sample.name.startswith("skydriver_") and not prefix:
                continue
            if family.type == "histogram" and not sample.name.endswith("_count"):
                continue
            row = {"metric": sample.name, "labels": sample.labels, "value": _or_none(sample.value), "service": service}
            yield row
            if family.type == "histogram" and sample.value:
                mean = sums.get(tuple(sorted(sample.labels.items())), 0.0) / sample.value
                yield row | {"metric": sample.name.removesuffix("_count") + " (mean)", "value": mean}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if value == int(value) else f"{value:.6g}"
