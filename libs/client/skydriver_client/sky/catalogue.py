"""A catalogue of sources from a file that the user names: any table that astropy reads (FITS, ECSV, CSV, VOTable)."""

from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Table

from skydriver_client.sky.reading import Floats

_NAMES = ("source_name", "name", "main_id", "id")
_RA = ("raj2000", "ra", "_raj2000", "ra_deg")
_DEC = ("dej2000", "dec", "decj2000", "_dej2000", "de", "dec_deg")

Source = tuple[str, float, float]


def read_catalogue(path: Path) -> tuple[Source, ...]:
    """Return name, RA and dec (degrees) of each source, as in the Fermi-LAT catalogues or any table with name, ra and dec.

    Raises ValueError with one line, OSError.
    """
    path.open("rb").close()
    kinds = {".fits": "fits", ".fit": "fits", ".gz": "fits", ".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".xml": "votable"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path} is not a catalogue: expected a file that ends with {', '.join(kinds)}")
    try:
        table = Table.read(path, format=kind, **({"hdu": 1} if kind == "fits" else {}))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(f"{path} is not a catalogue: {reason}") from error
    by_name = {str(column).lower(): column for column in table.colnames}
    chosen = [next((by_name[name] for name in names if name in by_name), None) for names in (_NAMES, _RA, _DEC)]
    if None in chosen:
        raise ValueError(f"{path} is not a catalogue: expected the columns name, ra and dec")
    names = [value.decode() if isinstance(value, bytes) else str(value) for value in table[chosen[0]]]
    ra, dec = _degrees(table[chosen[1]]), _degrees(table[chosen[2]])
    good = np.isfinite(ra) & (np.abs(dec) <= 90)
    return tuple((names[i].strip(), float(ra[i]) % 360, float(dec[i])) for i in np.flatnonzero(good))


def _degrees(column: Any) -> Floats:
    return np.asarray(np.ma.filled(np.ma.asarray(column, dtype=float), np.nan), dtype=np.float64)
