"""What a Result (REST contract 5.2) is made of, and a cache of those that were read last."""

from collections import OrderedDict
from dataclasses import dataclass

from skydriver_common.model.ids import ScanId

_CACHE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """Which skymap of a scan stands. digest, is_final, size (bytes): None when there is none yet."""

    scan_id: ScanId
    is_deleted: bool
    replaced_by: ScanId | None
    digest: str | None
    is_final: bool | None
    size: int | None


def envelope_of_result(view: ResultView) -> tuple[bytes, bytes]:
    """Return the JSON that stands before and after a skymap in a Result."""
    is_final = b"true" if view.is_final else b"false"
    return b'{"scan_id":"%b","skyscan_result":' % view.scan_id.encode(), b',"is_final":%b}' % is_final


class ResultCache:
    """The bodies of Results that were read last, up to ``max_bytes``; none that takes more than half of that.

    The key holds the skymap's digest and all else that the body is made of, so an entry is never out of date.
    """

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._n_bytes = 0
        self._bodies: OrderedDict[ResultView, bytes] = OrderedDict()

    def get(self, view: ResultView) -> bytes | None:
        """Return the body, None when it is not cached."""
        body = self._bodies.get(view)
        if body is not None:
            self._bodies.move_to_end(view)
        return body

    def put(self, view: ResultView, body: bytes) -> None:
        """Keep the body; the ones that were not read for longest make room for it."""
        if len(body) > self._max_bytes // 2 or view in self._bodies:
            return
        self._bodies[view] = body
        self._n_bytes += len(body)
        while self._n_bytes > self._max_bytes:
            self._n_bytes -= len(self._bodies.popitem(last=False)[1])
