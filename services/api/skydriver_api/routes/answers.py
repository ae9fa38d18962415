"""Answers that several routes give."""

from aiohttp import web


def json_response(body: bytes) -> web.Response:
    """200 with JSON bytes as they are."""
    return web.Response(body=body, content_type="application/json")
