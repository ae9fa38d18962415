"""Realtime events as the scanner meets them: unpacked, checked, with metadata and the facts a reconstruction needs.

Source: scanner contract 9 (formats A, B, C). Frames hold Python pickles; they are searched as bytes and never unpickled.
"""

import base64
import binascii
import hashlib
import json
import math
import re
import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

MJD_OF_UNIX_EPOCH = 40587.0
FRAME_STREAMS = ("G", "C", "D", "Q", "P")
# A frame is some 100 kB; this only stops a decompression bomb.
_MAX_FRAME_BYTES = 64 * 1024 * 1024
_STREAM_TYPES = (("hese", "HESE"), ("ehe", "EHE"), ("neutrino", "neutrino"), ("estres", "ESTRES"))
_KEY_TYPES = ((b"HESE_llhratio", "HESE"), (b"Estres_p_miss", "ESTRES"), (b"PoleEHEOphelia_ImpLF", "EHE"))
_BEST_FITS = ("l2_online_bestfit", "onlineL2_bestfit", "splinempe", "spefit2")
_ENERGIES = ("truncated", "spline_mue", "spline_muex", "mpe_muex")
_HEADER = b"\x01\x02\x00\x0d\x00\x00\x00I3EventHeader"
_BASELINE = re.compile(rb"baseline_gcd_\d+\.i3")
_DEFAULT_BASELINE = "baseline_gcd_2016.i3"


class EventRefusedError(Exception):
    """The event cannot be scanned, now or later; the text says why."""


@dataclass(frozen=True)
class Metadata:
    """`event_metadata` of every report and of each nside's result. mjd: days, UTC."""

    run_id: int
    event_id: int
    event_type: str | None
    mjd: float
    is_real_event: bool

    def as_json(self) -> dict[str, Any]:
        return {
            "run_id": self.run_id,
            "event_id": self.event_id,
            "event_type": self.event_type,
            "mjd": self.mjd,
            "is_real_event": self.is_real_event,
            "version": 1,
        }


@dataclass(frozen=True)
class Facts:
    """What a reconstruction needs to know of an event. Radians, GeV; llh: smaller is better.

    key: fingerprint of the event, so that the same event gives the same answers everywhere.
    """

    key: str
    ra: float
    dec: float
    sigma: float
    energy: float
    llh: float


@dataclass(frozen=True)
class Event:
    frames: tuple[tuple[str, str], ...]
    format_version: str
    baseline: str
    metadata: Metadata
    facts: Facts


def read_event(event: object, *, is_real: bool) -> Event:
    """Unpack an `event_i3live_json_dict`.

    Raises EventRefusedError: no `value`, not five frames, unreadable frame, no run or event number, or a real event's run
    outside 100000 … 999999.
    """
    value = event.get("value") if isinstance(event, dict) else None
    if not isinstance(value, dict):
        raise EventRefusedError("the event has no object 'value'")
    data = value.get("data")
    summary: dict[str, Any] = data if isinstance(data, dict) else {}
    frames = _frames(summary.get("frames") if summary else data)
    unpacked = {stream: _inflate(stream, content) for stream, content in frames}
    metadata = _metadata(summary, unpacked["P"], is_real=is_real)
    if is_real and not 100_000 <= metadata.run_id < 1_000_000:
        raise EventRefusedError(f"a real event needs a run_id of 100000 to 999999, this one has {metadata.run_id}")
    version = value.get("version")
    found = _BASELINE.search(unpacked["G"])
    return Event(
        frames=frames,
        format_version=version if isinstance(version, str) else "",
        baseline=found.group().decode() if found else _DEFAULT_BASELINE,
        metadata=metadata,
        facts=_facts(summary, unpacked["P"], metadata),
    )


def _frames(raw: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(raw, list) or len(raw) != len(FRAME_STREAMS):
        count = len(raw) if isinstance(raw, list) else 0
        raise EventRefusedError(f"the event needs {len(FRAME_STREAMS)} frames ({', '.join(FRAME_STREAMS)}), found {count}")
    frames: list[tuple[str, str]] = []
    for expected, frame in zip(FRAME_STREAMS, raw, strict=True):
        match frame:
            case [str(stream), str(content)] if stream == expected:
                frames.append((stream, content))
            case _:
                raise EventRefusedError(f"frame {expected} is missing, out of order, or no [stream, text] pair")
    return tuple(frames)


def _inflate(stream: str, content: str) -> bytes:
    try:
        return zlib.decompressobj().decompress(base64.b64decode(content, validate=True), _MAX_FRAME_BYTES)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise EventRefusedError(f"frame {stream} is not compressed base64: {error}") from error


def _metadata(summary: dict[str, Any], p_frame: bytes, *, is_real: bool) -> Metadata:
    if summary:
        run_id, event_id = summary.get("run_id"), summary.get("event_id")
        if type(run_id) is not int or type(event_id) is not int:
            raise EventRefusedError("the event's summary lacks an integer run_id or event_id")
        event_type = next((name for key, name in _STREAM_TYPES if key in summary), None)
        return Metadata(run_id, event_id, event_type, mjd_of_text(summary.get("eventtime")), is_real)
    run_id, event_id, mjd = read_header(p_frame)
    event_type = next((name for key, name in _KEY_TYPES if key in p_frame), None)
    return Metadata(run_id, event_id, event_type, mjd, is_real)


def mjd_of_text(text: object) -> float:
    """Modified Julian date of a UTC text such as `2023-12-02 17:08:24.093230`. Raises EventRefusedError."""
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "").replace(tzinfo=UTC)
    except ValueError as error:
        raise EventRefusedError("the event's summary lacks a readable eventtime") from error
    # Integer microseconds first: a float of seconds since 1970 would cost digits.
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    return MJD_OF_UNIX_EPOCH + since.days + (since.seconds * 1_000_000 + since.microseconds) / 86_400e6


def read_header(p_frame: bytes) -> tuple[int, int, float]:
    """(run, event, mjd) from the bytes of a decompressed P frame. Raises EventRefusedError when there is no header.

    Source: scanner contract 9, measured there on the published sample files.
    """
    raw = _reencoded(p_frame)
    at = raw.find(_HEADER)
    try:
        if at < 0:
            raise EventRefusedError("the P frame holds no event header")
        at += len(_HEADER) + 12
        run_id, _sub_run, event_id = struct.unpack_from("<III", raw, at)
        at += 12 + 8
        (name_length,) = struct.unpack_from("<I", raw, at)
        at += 4 + name_length + 10
        year, ticks = struct.unpack_from("<iq", raw, at)
        start_of_year = datetime(year, 1, 1, tzinfo=UTC)
    except (struct.error, ValueError) as error:
        raise EventRefusedError("the P frame's event header is cut short or damaged") from error
    days = (start_of_year - datetime(1970, 1, 1, tzinfo=UTC)).days
    return run_id, event_id, MJD_OF_UNIX_EPOCH + days + ticks / 864e12


def _reencoded(raw: bytes) -> bytes:
    """Undo the text form newer writers give a frame: its longest length-prefixed UTF-8 text, as latin-1 bytes."""
    if b"_codecs" not in raw[:200]:
        return raw
    best = b""
    at = raw.find(b"X")
    while 0 <= at <= len(raw) - 5:
        (length,) = struct.unpack_from("<I", raw, at + 1)
        if len(best) < length <= len(raw) - at - 5:
            try:
                best = raw[at + 5 : at + 5 + length].decode("utf-8").encode("latin-1")
            except UnicodeError:
                best = best or b""
        at = raw.find(b"X", at + 1)
    return best or raw


def _number(block: object, name: str) -> float | None:
    value = block.get(name) if isinstance(block, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) else None


def _facts(summary: dict[str, Any], p_frame: bytes, metadata: Metadata) -> Facts:
    # The P frame and the numbers identify an event; re-sent events with another envelope stay the same event.
    digest = hashlib.sha256(p_frame + json.dumps(metadata.as_json(), sort_keys=True).encode()).digest()
    reco = summary.get("reco")
    direction = _summary_direction(reco, metadata.mjd) or _hashed_direction(digest)
    errors = [
        error
        for fit in _BEST_FITS
        for name in ("cr_zen", "cr_azi")
        if isinstance(reco, dict) and (error := _number(reco.get(fit), name)) is not None
    ]
    sigma = min(max(errors[0] if errors else math.radians(1.0), math.radians(0.2)), math.radians(5.0))
    energies = reco.get("energy") if isinstance(reco, dict) else None
    energy = next((found for name in _ENERGIES if (found := _number(energies, name))), 50_000.0)
    return Facts(
        key=digest.hex()[:32],
        ra=direction[0],
        dec=direction[1],
        sigma=sigma,
        energy=energy,
        llh=1000.0 + digest[8] + digest[9] / 256,
    )


def _summary_direction(reco: object, mjd: float) -> tuple[float, float] | None:
    for fit in _BEST_FITS if isinstance(reco, dict) else ():
        block = reco.get(fit) if isinstance(reco, dict) else None
        zenith, azimuth = _number(block, "zen"), _number(block, "azi")
        if zenith is not None and azimuth is not None and 0.0 <= zenith <= math.pi:
            return equatorial(zenith, azimuth, mjd)
    return None


def equatorial(zenith: float, azimuth: float, mjd: float) -> tuple[float, float]:
    """(ra, dec), radians, of a detector direction seen from the South Pole at a moment.

    The zenith there points to the celestial south pole, so dec = zenith − 90°; azimuth counts from 90° E against the
    hour angle, so RA = Greenwich sidereal time + 90° − azimuth. Precession is left out: some tenths of a degree, which
    does not matter to a stand-in.
    """
    sidereal = math.radians(280.46061837 + 360.98564736629 * (mjd - 51544.5))
    return (sidereal + math.pi / 2 - azimuth) % (2 * math.pi), zenith - math.pi / 2


def _hashed_direction(digest: bytes) -> tuple[float, float]:
    """(ra, dec), even over the sphere, for an event that says nothing usable about its direction."""
    u, v = (int.from_bytes(digest[at : at + 8], "big") / 2**64 for at in (16, 24))
    return 2 * math.pi * u, math.asin(2 * v - 1)
