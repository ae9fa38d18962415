"""A reconstruction that is only a formula: how badly a direction fits an event.

Around the event's own direction the llh rises like a Gaussian's (quadratic in the angular distance), far away like a
logarithm, as maps of real events do. A wiggle that depends on event, pixel and variation stands for the roughness of a
real fit. The same event and pixel give the same answer on every worker, every time; there is no physics in it.
"""

import hashlib
import math
import struct
from dataclasses import dataclass

from skydriver_sandbox.events import Facts
from skydriver_sandbox.sphere import angular_distance, equatorial

_SOFTNESS = 40.0
_WIGGLE = 0.08
_LIGHT_M_PER_NS = 0.299792458


@dataclass(frozen=True)
class Reconstruction:
    """One answer of a worker. Metres, nanoseconds, GeV; llh: smaller is better; NaN where an algorithm gives none."""

    nside: int
    pixel_id: int
    posvar_id: int
    llh: float
    reco_losses_inside: float
    reco_losses_total: float
    position: tuple[float, float, float]
    time: float
    energy: float


def _noise(facts: Facts, *what: object) -> tuple[float, ...]:
    """Eight numbers in [0, 1) that depend on the event and on `what` only."""
    seed = ":".join([facts.key, *map(str, what)]).encode()
    return tuple(word / 2**32 for word in struct.unpack("<8I", hashlib.blake2b(seed, digest_size=32).digest()))


def reconstruct(facts: Facts, reco_algo: str, nside: int, pixel: int, variation: int) -> Reconstruction:
    """The answer for one pixel and position variation. Raises ValueError for a pixel that is not on the sky."""
    ra, dec = equatorial(nside, pixel)
    distance = angular_distance(ra, dec, facts.ra, facts.dec)
    noise = _noise(facts, nside, pixel, variation)
    chi2 = 2.0 * (1.0 - math.cos(distance)) / facts.sigma**2
    # A variation starts the fit elsewhere: some end in a slightly worse minimum.
    detour = 0.0 if variation == 0 else 0.5 * noise[1]
    llh = facts.llh + _SOFTNESS * math.log1p(chi2 / 2 / _SOFTNESS) + _WIGGLE * noise[0] + detour
    total = facts.energy * (0.8 + 0.4 * noise[2])
    # splinempe fits no energy losses; its maps hold NaN there (scanner contract 10).
    losses = (math.nan, math.nan) if reco_algo.startswith("splinempe") else (total * (0.85 + 0.15 * noise[3]), total)
    centre_noise = _noise(facts, "vertex")
    x, y, z = (200.0 * (2 * centre_noise[axis] - 1) + 10.0 * (2 * noise[4 + axis] - 1) for axis in range(3))
    return Reconstruction(
        nside=nside,
        pixel_id=pixel,
        posvar_id=variation,
        llh=llh,
        reco_losses_inside=losses[0],
        reco_losses_total=losses[1],
        position=(x, y, z),
        time=10_000.0 + 500.0 * distance / _LIGHT_M_PER_NS + 10.0 * noise[7],
        energy=total,
    )


def duration(facts: Facts, nside: int, pixel: int, variation: int, *, mean_s: float, jitter: float) -> float:
    """How long this reconstruction pretends to take, seconds; the same for the same pixel each time.

    mean_s: average over many pixels; 0 for no pause. jitter: 0 (all alike) … 1 (most short, some several times the mean).
    """
    if mean_s <= 0:
        return 0.0
    u = _noise(facts, "duration", nside, pixel, variation)[0]
    # An exponential has mean 1 and the long tail real reconstructions show; it is cut so that none takes for ever.
    return mean_s * ((1.0 - jitter) + jitter * min(8.0, -math.log1p(-u)))
