"""Query parameters: booleans as people and clients write them, integers. Source: REST contract 1.7."""

from aiohttp import web

from skydriver_api.http.http_errors import HttpError

_TRUE = frozenset({"true", "t", "yes", "y", "on", "1"})
_FALSE = frozenset({"false", "f", "no", "n", "off", "0"})


def parse_flag(request: web.Request, name: str) -> bool:
    """Parse a boolean of the query string, default false. Raises HttpError 400 that names the parameter."""
    text = request.query.get(name, "").strip().lower()
    if text in _TRUE:
        return True
    if text in _FALSE or not text:
        return False
    raise HttpError(400, f"{name}: must be true or false")


def parse_integer(text: str, name: str, *, default: int, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
    """Parse an integer of the query string or a header. Raises HttpError 400 that names the parameter."""
    text = text.strip()
    if not text:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 10 and minimum <= int(text) <= maximum:
        return int(text)
    raise HttpError(400, f"{name}: must be an integer from {minimum} to {maximum}")
