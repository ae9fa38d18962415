"""Query strings: booleans as people and clients write them, projections. Source: REST contract 1.6, 1.7."""

from aiohttp import web

from skydriver_api.http.failures import HttpProblem

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


def parse_flag(request: web.Request, name: str) -> bool:
    """A boolean of the query string, default false. Raises HttpProblem 400 naming the parameter."""
    text = request.query.get(name, "").strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE or not text:
        return False
    raise HttpProblem(400, f"{name}: must be true or false")


def parse_integer(text: str, name: str, *, default: int, least: int = 0, most: int = 2**31 - 1) -> int:
    """A whole number of the query string or a header. Raises HttpProblem 400 naming the parameter."""
    text = text.strip()
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most:
        return int(text)
    raise HttpProblem(400, f"{name}: must be a whole number from {least} to {most}")
