"""What was sent of one scan, what came back, which refinement is due. Pure; the clock is an argument."""

import math
from collections.abc import Iterable
from enum import Enum

from skydriver_sandbox.likelihood import Reconstruction
from skydriver_sandbox.scanner.progression import Progression, thresholds
from skydriver_sandbox.scanner.refinement import Pixel, first_round, refine


class Arrival(Enum):
    """What an answer turned out to be; only NEW ones count."""

    NEW = "new"
    DUPLICATE = "duplicate"
    UNKNOWN = "unknown"


def smallest(answers: Iterable[Reconstruction]) -> Reconstruction:
    """The answer with the smallest llh; NaN only when there is nothing else (upstream lets a first NaN win)."""
    return min(answers, key=lambda answer: math.inf if math.isnan(answer.llh) else answer.llh)


class PixelLedger:
    """Sent and received reconstructions of one scan.

    Finished = all variations of a pixel are back; its value is the variation with the smallest llh.
    """

    def __init__(
        self, progression: Progression, variations: int, threshold: float, *, pointed_at: tuple[float, float] | None = None
    ) -> None:
        self.progression = progression
        self.variations = variations
        self.finished: dict[int, dict[int, Reconstruction]] = {}
        self._pointed_at = pointed_at
        self._sent: dict[Pixel, float] = {}
        self._n_sent = dict.fromkeys(progression.nsides, 0)
        self._n_received = dict.fromkeys(progression.nsides, 0)
        self._partial: dict[Pixel, dict[int, Reconstruction]] = {}
        self._best: Reconstruction | None = None
        last = progression.nsides[-1]
        self._thresholds = {nside: thresholds(threshold, is_last=nside == last) for nside in progression.nsides}
        self._bins = dict.fromkeys(progression.nsides, 0)

    def mark_sent(self, pixels: Iterable[Pixel], at: float) -> None:
        """Note a round; a pixel sent before keeps its first time. at: Unix seconds."""
        for pixel in pixels:
            if pixel not in self._sent:
                self._sent[pixel] = at
                self._n_sent[pixel[0]] += 1
        # More sent lowers the share that is done: the same threshold can be passed again.
        for nside in self._bins:
            self._bins[nside] = min(self._bins[nside], self._bin(nside))

    def sent_at(self, pixel: Pixel) -> float:
        return self._sent[pixel]

    def is_missing(self, pixel: Pixel, variation: int) -> bool:
        """Whether this answer has not come yet."""
        nside, number = pixel
        return number not in self.finished.get(nside, {}) and variation not in self._partial.get(pixel, {})

    def missing(self) -> list[tuple[Pixel, int]]:
        """(pixel, variation) pairs that were sent and have not been answered, oldest first."""
        return [
            (pixel, variation)
            for pixel in self._sent
            for variation in range(self.variations)
            if self.is_missing(pixel, variation)
        ]

    def accept(self, answer: Reconstruction) -> Arrival:
        """Enter an answer. UNKNOWN: a pixel that was never sent; DUPLICATE: had before. Neither changes anything."""
        pixel = (answer.nside, answer.pixel_id)
        if pixel not in self._sent or not 0 <= answer.posvar_id < self.variations:
            return Arrival.UNKNOWN
        if not self.is_missing(pixel, answer.posvar_id):
            return Arrival.DUPLICATE
        self._n_received[answer.nside] += 1
        variations = self._partial.setdefault(pixel, {})
        variations[answer.posvar_id] = answer
        if len(variations) == self.variations:
            del self._partial[pixel]
            value = smallest(variations[number] for number in sorted(variations))
            self.finished.setdefault(answer.nside, {})[answer.pixel_id] = value
            self._best = value if self._best is None else smallest((self._best, value))
        return Arrival.NEW

    @property
    def best(self) -> Reconstruction | None:
        """The finished pixel with the smallest llh over all nsides."""
        return self._best

    def n_sent(self, nside: int) -> int:
        """Reconstructions sent."""
        return self._n_sent[nside] * self.variations

    def n_received(self, nside: int) -> int:
        return self._n_received[nside]

    @property
    def is_everything_collected(self) -> bool:
        return all(self._n_received[nside] == self.n_sent(nside) for nside in self.progression.nsides)

    def done(self, nside: int) -> float:
        """Share of an nside that is finished, 0 … 1; 0 when nothing was sent."""
        sent = self.n_sent(nside)
        return len(self.finished.get(nside, {})) * self.variations / sent if sent else 0.0

    def _bin(self, nside: int) -> int:
        share = self.done(nside)
        return sum(1 for threshold in self._thresholds[nside] if share >= threshold - 1e-9)

    def risen(self) -> int | None:
        """The largest nside whose share has passed another threshold since the last call, or None."""
        found: int | None = None
        for nside in self.progression.nsides:
            now = self._bin(nside)
            if now > self._bins[nside]:
                found = nside
            self._bins[nside] = now
        return found

    def next_round(self, upto: int | None) -> set[Pixel]:
        """Pixels to send now, none of them sent before. upto: the nside that passed a threshold; None: all nsides."""
        if self._best is None:
            chosen = first_round(self.progression, self._pointed_at)
        else:
            cut = self.progression if upto is None else self.progression.up_to_successor(upto)
            values = {nside: {pixel: value.llh for pixel, value in found.items()} for nside, found in self.finished.items()}
            chosen = refine(cut, values, (self._best.nside, self._best.pixel_id))
        return {pixel for pixel in chosen if pixel not in self._sent}
