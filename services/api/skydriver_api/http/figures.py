"""Figures of requests: by route, method and status, how long, and how many at the moment."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from prometheus_client import Counter, Gauge, Histogram

from skydriver_common.runtime.metrics import Metrics

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_SEARCH = "/scans/find"
_REFUSALS = {401: "auth", 403: "auth", 413: "size"}
KINDS = ("read", "write", "search", "stream")


class RequestFigures:
    """Counts what the middleware tells. One for the life of the application."""

    def __init__(self, metrics: Metrics) -> None:
        self._requests: Counter = metrics.counter("skydriver_http_requests")
        self._refused: Counter = metrics.counter("skydriver_http_requests_refused")
        self._durations: Histogram = metrics.histogram("skydriver_http_request_duration_seconds")
        in_flight: Gauge = metrics.gauge("skydriver_http_requests_in_flight")
        self._in_flight = {kind: in_flight.labels(kind) for kind in KINDS}
        for reason in sorted(set(_REFUSALS.values())):
            self._refused.labels(reason)

    @contextmanager
    def in_flight(self, request: web.Request) -> Iterator[None]:
        """Around a request."""
        gauge = self._in_flight[_kind(request)]
        gauge.inc()
        try:
            yield
        finally:
            gauge.dec()

    def answered(self, request: web.Request, status: int, began: float) -> None:
        """Count a request that was answered. began: by the monotonic clock."""
        route = request.match_info.route.resource
        path = "unknown" if route is None or "{path}" in route.canonical else route.canonical
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(path, method, str(status)).inc()
        if (reason := _REFUSALS.get(status)) is not None:
            self._refused.labels(reason).inc()
        if _kind(request) != "stream":
            self._durations.labels(path, method).observe(time.monotonic() - began)


def _kind(request: web.Request) -> str:
    if request.method != "GET":
        return "search" if request.path == _SEARCH else "write"
    return "stream" if "text/event-stream" in request.headers.get("Accept", "") else "read"


FIGURES = web.AppKey("figures", RequestFigures)


@contextmanager
def in_flight(request: web.Request) -> Iterator[None]:
    """Around a request: count it while it is being processed, if the application has figures."""
    figures = request.app.get(FIGURES)
    if figures is None:
        yield
        return
    with figures.in_flight(request):
        yield


def note_answer(request: web.Request, status: int, began: float) -> None:
    """Count a request that was answered, if the application has figures. began: by the monotonic clock."""
    if (figures := request.app.get(FIGURES)) is not None:
        figures.answered(request, status, began)
