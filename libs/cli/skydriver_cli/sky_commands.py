"""``skydriver plot | export | compare``: pictures and files of results, of a scan or of a file with a result."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from skydriver_cli.errors import CliError
from skydriver_cli.options import DEFAULT_DATA_DIR, AsJson, DataDir, Token, Url
from skydriver_cli.output import Terminal, line, print_json

if TYPE_CHECKING:
    from skydriver_client.sky import SkyResult

out = Terminal()

_HELP = "Id of a scan, or a file with a result."
Source = Annotated[str, typer.Argument(metavar="SCAN", help=_HELP)]
MethodOption = Annotated[
    str,
    typer.Option("--method", help="Regions by wilks, systematics (IC160427A) or posterior. The picture's legend says which."),
]


def plot(
    scan: Source,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File to write: .png, .svg or .pdf. Default: the event's name, .png.")
    ] = None,
    zoom: Annotated[bool, typer.Option("--zoom", help="The surroundings of the best fit instead of the whole sky.")] = False,
    method: MethodOption = "wilks",
    width: Annotated[float, typer.Option("--width", help="Width in inches.")] = 8.0,
    dpi: Annotated[int, typer.Option("--dpi", help="Dots per inch of a PNG.")] = 150,
    sources: Annotated[
        Path | None, typer.Option("--sources", help="Catalogue to mark: a table with name, ra and dec (FITS, ECSV, CSV).")
    ] = None,
    plane: Annotated[bool, typer.Option("--plane/--no-plane", help="Draw the Galactic plane.")] = True,
    bodies: Annotated[bool, typer.Option("--sun-and-moon/--no-sun-and-moon", help="Mark Sun and Moon.")] = True,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
) -> None:
    """Draw a scan's result, also of an unfinished scan: what is not scanned is hatched.

    Example: skydriver plot 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c --zoom -o zoom.pdf
    """
    with _one_line():
        from skydriver_client.sky.catalogue import read_catalogue
        from skydriver_client.sky.export import file_stem, write
        from skydriver_client.sky.pictures import draw

        sky = _read(scan, data_dir, url, token)
        path = output or Path(f"{file_stem(sky)}.{'zoom' if zoom else 'allsky'}.png")
        picture = draw(
            sky, view="zoom" if zoom else "allsky", kind=path.suffix.removeprefix(".").lower(), method=method, width=width, dpi=dpi,
            plane=plane, sun_and_moon=bodies, sources=read_catalogue(sources) if sources else (),
        )  # fmt: skip
        write(path, picture)
    out.print(line("wrote ", (str(path), "bold")), soft_wrap=True)


def export(
    scan: Source,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder for the files. It is made when it is missing.")
    ] = Path(),
    everything: Annotated[bool, typer.Option("--all", help="Write every format.")] = False,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "-f",
            "--format",
            help="multiorder, flat, flat-llh, geojson, contours, moc50, moc90, moc90-json, pixels, npz, json, notice, circular, "
            "allsky, zoom. May be given several times.",
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Write a scan's result as the files that the field's tools read: maps, contours, tables, notice, circular, pictures.

    Every file names the digest of the result that it was made from.

    Example: skydriver export 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c --all files/
    """
    if not (everything or formats):
        raise CliError("nothing to write", "Give --all, or --format with a name", exit_code=2)
    with _one_line():
        from skydriver_client.sky.export import export as write_files

        sky = _read(scan, data_dir, url, token)
        paths = write_files(sky, folder, None if everything else formats)
    if as_json:
        print_json({"digest": sky.digest, "files": [str(path) for path in paths]})
        return
    for path in paths:
        out.print(line("wrote ", (str(path), "bold")), soft_wrap=True)


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help=_HELP)],
    second: Annotated[str, typer.Argument(metavar="B", help=_HELP)],
    method: MethodOption = "wilks",
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = None,
    token: Token = None,
    as_json: AsJson = False,
) -> None:
    """Compare two results: distance of the best fits, areas and overlap of the 90 % regions, difference of the maps.

    Example: skydriver compare 18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c result.json
    """
    with _one_line():
        from skydriver_client.sky import compare as compare_skies

        a, b = (_read(each, data_dir, url, token) for each in (first, second))
        found = compare_skies(a, b, method=method)
    numbers = {
        "distance_deg": found.distance, "area_a_deg2": found.area_a, "area_b_deg2": found.area_b, "area_ratio": found.area_ratio,
        "overlap": found.overlap, "a_in_b": found.a_in_b, "b_in_a": found.b_in_a, "largest_difference": found.largest_difference,
    }  # fmt: skip
    if as_json:
        plain = {name: value if value == value else None for name, value in numbers.items()}
        print_json({"a": a.digest, "b": b.digest, "method": method, **plain})
        return
    for text in (
        f"best fits: {found.distance:.3f}° apart",
        f"90 % regions: {found.area_a:.2f} and {found.area_b:.2f} deg², ratio {found.area_ratio:.3f}, overlap {found.overlap:.3f}",
        f"A's best fit is at the {100 * found.a_in_b:.1f} % level of B, B's at the {100 * found.b_in_a:.1f} % level of A",
        f"2 ΔLLH differs by up to {found.largest_difference:.2f}",
    ):
        out.print(text, highlight=False, markup=False)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what may be wrong with a result, an option or the disk into one line."""
    try:
        yield
    except ImportError as error:  # numpy, astropy or matplotlib is missing: the text says which extra brings it
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"can't use {error.filename or 'the file'}: {error.strerror}") from error
    except ValueError as error:
        raise CliError(str(error), exit_code=2) from error


def _read(source: str, data_dir: Path, url: str | None, token: str | None) -> "SkyResult":
    """Return the result of a scan, or of a file when there is one of that name. Raises CliError."""
    from skydriver_client.sky import UnreadableResult, read_result

    path = Path(source)
    is_file = "/" in source or "." in source or path.is_file()
    try:
        if source == "-":
            return read_result(sys.stdin.buffer.read())
        return read_result(path.read_bytes() if is_file else asyncio.run(_fetch(source, data_dir, url, token)))
    except UnreadableResult as error:
        raise CliError(f"{source}: {error}") from error


async def _fetch(scan_id: str, data_dir: Path, url: str | None, token: str | None) -> bytes:
    from urllib.parse import quote

    from skydriver_cli.client import Client, find_connection

    async with Client(find_connection(url, token, data_dir)) as client:
        return await client.content("GET", f"/scan/{quote(scan_id, safe='')}/result")
