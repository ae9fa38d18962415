"""Pictures of a result: the whole sky (Mollweide) or the region around the best fit, as PNG, SVG or PDF.

Each point of the picture takes the value of the cell it lies in, so the cost does not grow with the nside.
"""

import io
import math
from typing import Any

import numpy as np

from skydriver_client.sky.errors import require
from skydriver_client.sky.reading import Floats
from skydriver_client.sky.regions import Method, Region
from skydriver_client.sky.result import SkyResult

VIEWS = ("allsky", "zoom")
KINDS = ("png", "svg", "pdf")
_COLORS = ("black", "red", "green")
_MOST_TWO_DELTA = 40.0
"""The end of the colour scale, as in IceCube's own pictures."""


def draw(
    sky: SkyResult,
    *,
    view: str = "allsky",
    kind: str = "png",
    method: Method | str = Method.WILKS,
    width: float = 8.0,
    dpi: int = 150,
    plane: bool = True,
    sun_and_moon: bool = True,
    sources: tuple[tuple[str, float, float], ...] = (),
) -> bytes:
    """Return a picture. view: ``allsky`` or ``zoom``. kind: ``png``, ``svg`` or ``pdf``. width: inches.

    plane: the Galactic plane as a line. sun_and_moon: at the time of the event. sources: name, RA and dec in degrees, marked by a
    cross. What nobody scanned is hatched. Raises ValueError, and MissingExtra without matplotlib.
    """
    if view not in VIEWS:
        raise ValueError(f"view: expected {' or '.join(VIEWS)}")
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}")
    if not (1 <= width <= 100 and 10 <= dpi <= 2400):
        raise ValueError("width: expected 1 to 100 inches; dpi: expected 10 to 2400")
    require("matplotlib", "plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, width * (0.72 if view == "allsky" else 0.95)))
    FigureCanvasAgg(figure)
    projection = _AllSky() if view == "allsky" else _Zoom(sky, method)
    axes = figure.add_axes((0.08, 0.2, 0.84, 0.7))
    _paint(axes, figure, sky, projection)
    handles = [_outline(axes, projection, region, color) for region, color in zip(sky.regions(method), _COLORS, strict=False)]
    best = sky.best_fit
    handles.append(
        _mark(axes, projection, best.ra, best.dec, "*", "black", f"best fit RA {best.ra:.2f}°, dec {best.dec:+.2f}°")
    )
    if plane:
        _plane(axes, projection)
    if sun_and_moon and sky.event.mjd is not None:
        for name, ra, dec, marker in _sun_and_moon(sky.event.mjd):
            handles.append(_mark(axes, projection, ra, dec, marker, "tab:orange", name))
    for name, ra, dec in sources:
        if _mark(axes, projection, ra, dec, "x", "tab:blue", name) is not None:
            x, y = projection.place(np.array([ra]), np.array([dec]))
            axes.annotate(name, (x[0], y[0]), xytext=(3, 3), textcoords="offset points", fontsize=6)
    axes.legend(
        handles=[handle for handle in handles if handle is not None],
        loc="upper center",
        bbox_to_anchor=(0.5, -0.02 if view == "allsky" else -0.1),
        ncols=2,
        fontsize=7,
        frameon=False,
    )
    state = "" if sky.is_final is not False and sky.done > 1 - 1e-9 else ", not complete"
    axes.set_title(f"{sky.event.name}{state}", fontsize=10)
    figure.text(0.99, 0.01, f"{sky.pixel_count} pixels, {sky.digest[:23]}", ha="right", fontsize=5, color="gray")
    memory = io.BytesIO()
    about: dict[str, Any] = {"Title": sky.event.name}
    about["Description" if kind != "pdf" else "Subject"] = sky.digest
    if kind == "svg":
        about["Date"] = None
    figure.savefig(memory, format=kind, dpi=dpi, metadata=about)
    return memory.getvalue()


class _AllSky:
    """Mollweide, RA 180° in the middle, east to the left."""

    half_width, half_height = 2 * math.sqrt(2), math.sqrt(2)
    pixels = (900, 450)

    def place(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        """Return where directions are in the picture."""
        lon = np.radians((np.asarray(ra) % 360) - 180)
        lat = np.radians(dec)
        angle = np.where(np.abs(lat) > math.pi / 2 - 1e-9, lat, lat * 0.9)
        for _ in range(30):  # Newton's method; slow at the poles only, which are set
            slope = np.maximum(2 + 2 * np.cos(2 * angle), 1e-9)
            angle = np.clip(angle - (2 * angle + np.sin(2 * angle) - math.pi * np.sin(lat)) / slope, -math.pi / 2, math.pi / 2)
        return -2 * math.sqrt(2) / math.pi * lon * np.cos(angle), math.sqrt(2) * np.sin(angle)

    def direction(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return RA and dec of points of the picture; NaN outside of the sky."""
        with np.errstate(invalid="ignore", divide="ignore"):
            angle = np.arcsin(y / math.sqrt(2))
            lon = -math.pi * x / (2 * math.sqrt(2) * np.cos(angle))
            lat = np.arcsin((2 * angle + np.sin(2 * angle)) / math.pi)
        lon[np.abs(lon) > math.pi] = np.nan
        return np.degrees(lon) + 180, np.degrees(lat)

    def pieces(self, line: Floats) -> list[Floats]:
        """Return a line as pieces that do not jump from one edge of the picture to the other."""
        jumps = np.flatnonzero(np.abs(np.diff(line[:, 0] % 360)) > 180) + 1
        return [piece for piece in np.split(line, jumps) if len(piece)]

    def grid(self) -> list[tuple[Floats, str, tuple[float, float]]]:
        """Return meridians and parallels with a label and the direction where it stands."""
        decs, ras = np.linspace(-90, 90, 91), np.linspace(0.001, 359.999, 181)
        lines = [
            (np.stack([np.full(91, float(ra)), decs], axis=-1), f"{ra // 15} h", (float(ra), 0.0)) for ra in range(60, 360, 60)
        ]
        return lines + [
            (np.stack([ras, np.full(181, float(d))], axis=-1), f"{d:+d}°", (359.9, float(d))) for d in (-60, -30, 0, 30, 60)
        ]


class _Zoom:
    """Gnomonic-like view: azimuthal, equal distances from the best fit, so that poles and RA 0 are points like all others."""

    pixels = (700, 700)

    def __init__(self, sky: SkyResult, method: Method | str) -> None:
        best = sky.best_fit
        self.ra, self.dec = best.ra, best.dec
        corners = [line for region in sky.regions(method)[:2] for line in region.contours()]
        reach = 2.0
        if corners:
            points = np.concatenate(corners)
            reach = float(np.degrees(self._distance(points[:, 0], points[:, 1])).max()) * 1.3
        self.half_width = self.half_height = min(max(reach, 1.5), 90.0)

    def _vectors(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats, Floats]:
        delta, lat, lat_0 = np.radians(np.asarray(ra) - self.ra), np.radians(dec), math.radians(self.dec)
        east = np.cos(lat) * np.sin(delta)
        north = np.sin(lat) * math.cos(lat_0) - np.cos(lat) * math.sin(lat_0) * np.cos(delta)
        towards = np.sin(lat) * math.sin(lat_0) + np.cos(lat) * math.cos(lat_0) * np.cos(delta)
        return east, north, towards

    def _distance(self, ra: Floats, dec: Floats) -> Floats:
        east, north, towards = self._vectors(ra, dec)
        found: Floats = np.arctan2(np.hypot(east, north), towards)
        return found

    def place(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        """Return where directions are in the picture, in degrees from the best fit."""
        east, north, towards = self._vectors(ra, dec)
        across = np.hypot(east, north)
        scale = np.degrees(np.arctan2(across, towards)) / np.where(across > 0, across, 1)
        return -east * scale, north * scale

    def direction(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return RA and dec of points of the picture."""
        distance, lat_0 = np.radians(np.hypot(x, y)), math.radians(self.dec)
        bearing = np.arctan2(-x, y)
        dec = np.arcsin(
            np.clip(math.sin(lat_0) * np.cos(distance) + math.cos(lat_0) * np.sin(distance) * np.cos(bearing), -1, 1)
        )
        ra = np.arctan2(np.sin(bearing) * np.sin(distance) * math.cos(lat_0), np.cos(distance) - math.sin(lat_0) * np.sin(dec))
        return (np.degrees(ra) + self.ra) % 360, np.degrees(dec)

    def pieces(self, line: Floats) -> list[Floats]:
        """Return the parts of a line that are near the picture."""
        near = np.degrees(self._distance(line[:, 0], line[:, 1])) < min(2 * self.half_width, 175)
        return [
            piece for piece in np.split(line, np.flatnonzero(np.diff(near)) + 1) if len(piece) > 1 and _is_near(self, piece)
        ]

    def grid(self) -> list[tuple[Floats, str, tuple[float, float]]]:
        """Return meridians and parallels with a label and the direction where it stands."""
        step = next(each for each in (0.5, 1, 2, 5, 10, 15, 30) if each >= self.half_width / 4 or each == 30)
        around = min(360.0, step * max(1.0, 1 / max(0.02, math.cos(math.radians(self.dec)))))
        ra_step = next(each for each in (0.5, 1, 2, 5, 10, 15, 30, 60) if each >= around or each == 60)
        low, high = max(-90.0, self.dec - 1.5 * self.half_width), min(90.0, self.dec + 1.5 * self.half_width)
        decs = np.linspace(low, high, 200)
        polar = high == 90 or low == -90
        wide = (
            180.0 if polar else min(180.0, 1.5 * self.half_width / max(0.02, math.cos(math.radians(max(abs(low), abs(high))))))
        )
        ras = self.ra + np.linspace(-wide, wide, 400)
        first = math.ceil((self.ra - wide) / ra_step)
        count = min(int(360 / ra_step), math.floor((self.ra + wide) / ra_step) - first + 1)
        bottom = self.dec - 0.93 * self.half_width
        lines = [
            (np.stack([np.full(200, ra), decs], axis=-1), f"{ra % 360:g}°", (ra, bottom if bottom > -88 else -80.0))
            for ra in ((first + number) * ra_step for number in range(count))
        ]
        for number in range(math.ceil(low / step), math.floor(high / step) + 1):
            edge = self.ra + 0.9 * self.half_width / max(0.1, math.cos(math.radians(number * step)))
            lines.append((np.stack([ras, np.full(400, number * step)], axis=-1), f"{number * step:+g}°", (edge, number * step)))
        return lines


_Projection = _AllSky | _Zoom


def _is_near(view: _Zoom, piece: Floats) -> bool:
    """Return whether a piece of a line begins near the picture."""
    x, y = view.place(piece[:1, 0], piece[:1, 1])
    return bool(math.hypot(x[0], y[0]) < 2 * view.half_width)


def _paint(axes: Any, figure: Any, sky: SkyResult, view: _Projection) -> None:
    columns, rows = view.pixels
    wide, high = view.half_width, view.half_height
    x, y = np.meshgrid(
        np.linspace(-wide, wide, columns, endpoint=False) + wide / columns,
        np.linspace(-high, high, rows, endpoint=False) + high / rows,
    )
    ra, dec = view.direction(x, y)
    on_sky = np.isfinite(ra) & np.isfinite(dec)
    values = np.full(x.shape, np.nan)
    values[on_sky] = sky.two_delta_llh[sky.cells.at(ra[on_sky], dec[on_sky])]
    extent = (-wide, wide, -high, high)
    unscanned = np.where(on_sky & ~np.isfinite(values), 1.0, 0.0)
    if unscanned.any():
        axes.contourf(x, y, unscanned, levels=[0.5, 1.5], colors="none", hatches=["////"])
    image = axes.imshow(
        values,
        origin="lower",
        extent=extent,
        cmap="plasma_r",
        vmin=0,
        vmax=_MOST_TWO_DELTA,
        interpolation="nearest",
        rasterized=True,
    )
    for line, label, (label_ra, label_dec) in view.grid():
        for piece in view.pieces(line):
            axes.plot(*view.place(piece[:, 0], piece[:, 1]), color="gray", linewidth=0.4, alpha=0.6)
        (at_x,), (at_y,) = view.place(np.array([label_ra]), np.array([label_dec]))
        if abs(at_x) <= wide and abs(at_y) <= high:
            axes.text(at_x, at_y, label, fontsize=6, color="dimgray", ha="center", va="center")
    axes.set_xlim(-wide, wide)
    axes.set_ylim(-high, high)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    if isinstance(view, _AllSky):
        for spine in axes.spines.values():
            spine.set_visible(False)
        angle = np.linspace(0, 2 * math.pi, 361)
        axes.plot(wide * np.cos(angle), high * np.sin(angle), color="black", linewidth=0.8)
    else:
        axes.set_xlabel("RA", fontsize=8)
        axes.set_ylabel("dec", fontsize=8)
    bar = figure.colorbar(image, ax=axes, orientation="vertical", fraction=0.03, pad=0.02, extend="max")
    bar.set_label("2 ΔLLH", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _outline(axes: Any, view: _Projection, region: Region, color: str) -> Any:
    from matplotlib.lines import Line2D

    for line in region.contours():
        for piece in view.pieces(line):
            axes.plot(*view.place(piece[:, 0], piece[:, 1]), color=color, linewidth=1.2)
    return Line2D([], [], color=color, label=f"{region.label}: {region.area_deg2:.2f} deg²")


def _mark(axes: Any, view: _Projection, ra: float, dec: float, marker: str, color: str, label: str) -> Any:
    """Mark a direction; None when it is outside of the picture."""
    (x,), (y,) = view.place(np.array([ra]), np.array([dec]))
    if abs(x) > view.half_width or abs(y) > view.half_height:
        return None
    return axes.plot([x], [y], marker=marker, color=color, linestyle="none", markersize=6, label=label)[0]


def _plane(axes: Any, view: _Projection) -> None:
    from astropy import units as u
    from astropy.coordinates import SkyCoord

    plane = SkyCoord(l=np.linspace(0, 360, 721) * u.deg, b=np.zeros(721) * u.deg, frame="galactic").icrs
    line = np.stack([plane.ra.deg, plane.dec.deg], axis=-1)
    for piece in view.pieces(line):
        axes.plot(*view.place(piece[:, 0], piece[:, 1]), color="tab:blue", linewidth=0.8, linestyle="--")


def _sun_and_moon(mjd: float) -> list[tuple[str, float, float, str]]:
    """Return name, RA, dec and marker, seen from the centre of the Earth; asks no server."""
    from astropy.coordinates import get_body
    from astropy.time import Time
    from astropy.utils import iers

    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("auto_max_age", None):
        when = Time(mjd, format="mjd", scale="utc")
        found = []
        for name, marker in (("sun", "o"), ("moon", "d")):
            body = get_body(name, when, ephemeris="builtin")
            found.append((name.capitalize(), float(body.ra.deg), float(body.dec.deg), marker))
    return found
