"""What goes over the queues: messages of scanner and workers as plain JSON in EWMS's envelope.

Envelope: zstd (level 3) of UTF-8 JSON `{"headers": {}, "data": <message>}` (EWMS contract 8). Upstream's messages carry
Python pickles; these carry the same facts as plain JSON (scanner contract 7 and 12), so nothing is ever unpickled.
"""

import base64
import binascii
import dataclasses
import functools
import json
import math
from dataclasses import dataclass
from typing import Any

import zstandard

from skydriver_sandbox.events import Event, Facts
from skydriver_sandbox.likelihood import Reconstruction

_MAX_MESSAGE_BYTES = 16 * 1024 * 1024


class UndecodableError(Exception):
    """A message or file that does not hold what it should; the text says what."""


@functools.cache
def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=3)


@functools.cache
def _decompressor() -> zstandard.ZstdDecompressor:
    return zstandard.ZstdDecompressor()


def encode(message: object) -> bytes:
    """A message in its envelope. Raises ValueError for NaN and infinity: they are not JSON."""
    return _compressor().compress(json.dumps({"headers": {}, "data": message}, allow_nan=False).encode())


def decode(body: bytes) -> dict[str, Any]:
    """The message inside an envelope. Raises UndecodableError."""
    try:
        envelope = json.loads(_decompressor().decompress(body, max_output_size=_MAX_MESSAGE_BYTES))
        message = envelope["data"]
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise UndecodableError(f"no message in EWMS's envelope: {error}") from error
    if not isinstance(message, dict):
        raise UndecodableError("the message is not an object")
    return message


@dataclass(frozen=True)
class PixelTask:
    """Server → worker: reconstruct one pixel from one start position."""

    reco_algo: str
    format_version: str
    nside: int
    pixel: int
    variation: int

    def as_json(self, seed: dict[str, float]) -> dict[str, Any]:
        """seed: the start of the fit (x, y, z in m; time in ns; energy in GeV; zenith, azimuth in radians)."""
        return {
            "reco_algo": self.reco_algo,
            "realtime_format_version": self.format_version,
            "pframe": {
                "sub_event_stream": f"SCAN_nside{self.nside:04d}_pixel{self.pixel:04d}_posvar{self.variation:04d}",
                "nside": self.nside,
                "pixel": self.pixel,
                "variation": self.variation,
                "seed": seed,
            },
        }


def read_pixel_task(message: dict[str, Any]) -> PixelTask:
    """Raises UndecodableError."""
    try:
        frame = message["pframe"]
        return PixelTask(
            str(message["reco_algo"]),
            str(message["realtime_format_version"]),
            int(frame["nside"]),
            int(frame["pixel"]),
            int(frame["variation"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UndecodableError(f"not a pixel to reconstruct: {error!r}") from error


def answer_json(answer: Reconstruction, runtime_s: float) -> dict[str, Any]:
    """Worker → server. NaN travels as null."""
    x, y, z = answer.position
    fields = dataclasses.asdict(answer) | {"position": {"x": x, "y": y, "z": z}}
    plain = {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in fields.items()}
    return {"reco_pixel_variation": plain, "runtime": runtime_s}


def read_answer(message: dict[str, Any]) -> tuple[Reconstruction, float]:
    """(answer, runtime in seconds by the worker's clock). Raises UndecodableError."""
    try:
        fields = message["reco_pixel_variation"]
        position = fields["position"]
        numbers = {
            name: math.nan if fields[name] is None else float(fields[name])
            for name in ("llh", "reco_losses_inside", "reco_losses_total", "time", "energy")
        }
        answer = Reconstruction(
            nside=int(fields["nside"]),
            pixel_id=int(fields["pixel_id"]),
            posvar_id=int(fields["posvar_id"]),
            position=(float(position["x"]), float(position["y"]), float(position["z"])),
            **numbers,
        )
        return answer, float(message["runtime"])
    except (KeyError, TypeError, ValueError) as error:
        raise UndecodableError(f"not a reconstruction: {error!r}") from error


def startup_json(event: Event) -> bytes:
    """`startup.json`: what every worker downloads once.

    The last frame is the scanner's own physics frame; upstream's is a pickle, this one is the facts as JSON.
    """
    facts = base64.b64encode(json.dumps(dataclasses.asdict(event.facts)).encode()).decode()
    frames = [list(frame) for frame in event.frames[:-1]] + [["p", facts]]
    return json.dumps({"baseline_GCD_file": event.baseline, "GCDQp_packet": {"frames": frames}}).encode()


def read_startup(content: bytes) -> Facts:
    """Raises UndecodableError, also for a null `baseline_GCD_file`, on which upstream's workers fail."""
    try:
        startup = json.loads(content)
        if not isinstance(startup["baseline_GCD_file"], str):
            raise UndecodableError("startup.json names no baseline_GCD_file")
        stream, packed = startup["GCDQp_packet"]["frames"][-1]
        if stream != "p":
            raise UndecodableError("startup.json has no physics frame")
        return Facts(**json.loads(base64.b64decode(packed, validate=True)))
    except (KeyError, IndexError, TypeError, ValueError, binascii.Error) as error:
        raise UndecodableError(f"startup.json is damaged: {error!r}") from error
