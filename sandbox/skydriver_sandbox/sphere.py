"""One HEALPix pixel at a time (RING scheme), and angles: plain arithmetic, so that a worker needs no numpy.

The formulas are those of the HEALPix paper (Górski et al. 2005); the tests compare them with healpy.
"""

import math


def pixel_count(nside: int) -> int:
    """How many pixels the whole sky has: 12 nside²."""
    return 12 * nside * nside


def pixel_area(nside: int) -> float:
    """Solid angle of one pixel, steradian."""
    return 4.0 * math.pi / pixel_count(nside)


def centre(nside: int, pixel: int) -> tuple[float, float]:
    """(theta, phi) of one pixel's centre, radians; theta is the colatitude.

    Raises ValueError for a pixel outside [0, 12 nside²).
    """
    total = pixel_count(nside)
    if not 0 <= pixel < total:
        raise ValueError(f"nside {nside} has no pixel {pixel}")
    cap = 2 * nside * (nside - 1)
    if pixel < cap:
        ring = (1 + math.isqrt(1 + 2 * pixel)) >> 1
        in_ring = pixel + 1 - 2 * ring * (ring - 1)
        z, phi = 1.0 - ring * ring / (3.0 * nside * nside), (in_ring - 0.5) * math.pi / (2 * ring)
    elif pixel < total - cap:
        ring, in_ring = divmod(pixel - cap, 4 * nside)
        shift = 1.0 if ring & 1 else 0.5
        z, phi = (nside - ring) * 2.0 / (3.0 * nside), (in_ring + 1 - shift) * math.pi / (2 * nside)
    else:
        from_end = total - pixel
        ring = (1 + math.isqrt(2 * from_end - 1)) >> 1
        in_ring = 4 * ring + 1 - (from_end - 2 * ring * (ring - 1))
        z, phi = ring * ring / (3.0 * nside * nside) - 1.0, (in_ring - 0.5) * math.pi / (2 * ring)
    return math.acos(max(-1.0, min(1.0, z))), phi


def equatorial(nside: int, pixel: int) -> tuple[float, float]:
    """(ra, dec) of one pixel's centre, radians. Source: scanner contract 8 (RA = phi, dec = pi/2 - theta)."""
    theta, phi = centre(nside, pixel)
    return phi, math.pi / 2 - theta


def angular_distance(ra: float, dec: float, other_ra: float, other_dec: float) -> float:
    """Angle between two directions, radians; exact for small angles too (haversine)."""
    a = math.sin((dec - other_dec) / 2) ** 2 + math.cos(dec) * math.cos(other_dec) * math.sin((ra - other_ra) / 2) ** 2
    return 2 * math.asin(min(1.0, math.sqrt(a)))
