"""Query strings: booleans as people and clients write them, projections. Source: REST contract 1.6, 1.7."""

from aiohttp import web

from skydriver_api.failures import HttpProblem

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


def flag(request: web.Request, name: str) -> bool:
    """A boolean of the query string, default false. Raises HttpProblem 400 naming the parameter."""
    text = request.query.get(name, "").strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE or not text:
        return False
    raise HttpProblem(400, f"{name}: must be true or false")
