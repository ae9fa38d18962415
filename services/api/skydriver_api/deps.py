"""What handlers work with, under one typed key of the application."""

from dataclasses import dataclass

from aiohttp import web

from skydriver_api.commander import Commander
from skydriver_api.images import ImageResolver
from skydriver_api.reads import Reads


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """clusters: name to its most workers with client logs, None: no cap. dashboard_url: empty = none."""

    reads: Reads
    commander: Commander
    images: ImageResolver
    clusters: dict[str, int | None]
    dashboard_url: str = ""
    namespace: str = ""


DEPS = web.AppKey("deps", Deps)
