"""The nside progression and the thresholds, checked as the scanner checks them. Source: scanner contract 8."""

from collections.abc import Sequence
from dataclasses import dataclass

# Reconstructions per pixel. Source: scanner contract 1.
VARIATIONS = {
    "dummy": 1,
    "crash_dummy": 1,
    "millipede_wilks": 1,
    "millipede_original": 7,
    "splinempe": 7,
    "splinempe_pointed": 7,
}
# From here on a map would not fit into memory, here or at SkyDriver.
_MAX_NSIDE = 8192
_FIRST_MAX_NSIDE = 256


class ScanRefusedError(Exception):
    """The scan can never run as asked; the text says why. The process ends with code 2, so that nobody starts it again."""


@dataclass(frozen=True)
class Step:
    """One nside, and about how many pixels of the step before are refined into it (0 for the first: the whole sky)."""

    nside: int
    extension: int


@dataclass(frozen=True)
class Progression:
    steps: tuple[Step, ...]

    @property
    def nsides(self) -> tuple[int, ...]:
        return tuple(step.nside for step in self.steps)

    def up_to_successor(self, nside: int) -> "Progression":
        """The steps up to the given nside and the one after it."""
        return Progression(self.steps[: self.nsides.index(nside) + 2])

    def estimates(self, variations: int) -> dict[int, int]:
        """Reconstructions to expect per nside, before anything is known."""
        first = self.steps[0]
        numbers = {first.nside: variations * 12 * first.nside**2}
        for coarse, fine in zip(self.steps, self.steps[1:], strict=False):
            numbers[fine.nside] = variations * fine.extension * (fine.nside // coarse.nside) ** 2
        return numbers


def read_progression(words: Sequence[str]) -> Progression:
    """From `8:0 64:12 512:24`. Raises ScanRefusedError, naming the wrong entry and the rule."""
    if not words:
        raise ScanRefusedError("the nside progression is empty: give pairs such as 8:0 64:12 512:24")
    steps: list[Step] = []
    for word in words:
        left, colon, right = word.partition(":")
        if not (colon and left.isascii() and left.isdigit() and right.isascii() and right.isdigit()):
            raise ScanRefusedError(
                f"nside progression: '{word}' is not NSIDE:EXTENSION with two whole numbers, both not negative"
            )
        steps.append(Step(int(left), int(right)))
    for number, step in enumerate(steps):
        if step.nside < 1 or step.nside & (step.nside - 1) or step.nside > _MAX_NSIDE:
            raise ScanRefusedError(f"nside progression: {step.nside} is not a power of two from 1 to {_MAX_NSIDE}")
        if number == 0 and step.extension != 0:
            raise ScanRefusedError(f"nside progression: the first extension must be 0, not {step.extension}")
        if number == 0 and step.nside > _FIRST_MAX_NSIDE:
            raise ScanRefusedError(
                f"nside progression: the first nside covers the whole sky and must be at most {_FIRST_MAX_NSIDE}"
            )
        if number > 0 and step.extension < 1:
            raise ScanRefusedError(f"nside progression: the extension of nside {step.nside} must be at least 1")
        if number > 0 and step.nside <= steps[number - 1].nside:
            raise ScanRefusedError("nside progression: the nsides must be different and ascending")
    return Progression(tuple(steps))


def read_threshold(value: float) -> float:
    """The predictive scanning threshold, 0.1 to 1.0 (0.1 itself is fine here; upstream fails on it later)."""
    if not 0.1 <= value <= 1.0:
        raise ScanRefusedError(f"the predictive scanning threshold must be 0.1 to 1.0, not {value}")
    return value


def thresholds(value: float, *, is_last: bool) -> tuple[float, ...]:
    """Shares of an nside at which refinement is due: the value and each tenth above it; only 1.0 for the last nside."""
    if is_last:
        return (1.0,)
    return (value, *(tenth / 10 for tenth in range(1, 11) if tenth / 10 > value))


def variations_of(reco_algo: str) -> int:
    """Position variations per pixel of an algorithm. Raises ScanRefusedError for an unknown one."""
    if reco_algo not in VARIATIONS:
        raise ScanRefusedError(f"unknown reconstruction '{reco_algo}': known are {', '.join(VARIATIONS)}")
    return VARIATIONS[reco_algo]
