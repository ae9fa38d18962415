"""Tokens of single scans: valid for that scan, until some time after its end, on the routes that scanners use."""

import time

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.http.access import unauthorized
from skydriver_api.http.http_errors import HttpError
from skydriver_common.auth import Principal
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan_tokens import is_long_ago


async def check_scan_token(request: web.Request, principal: Principal, *, is_allowed: bool) -> None:
    """Check that a token of one scan is valid here and now. Raises HttpError 401, 403, TryLater.

    is_allowed: whether the route takes such tokens at all.
    """
    path_scan_id = request.match_info.get("scan_id")
    if principal.scan_id is None or path_scan_id is None or not principal.may_touch(ScanId(path_scan_id)):
        raise HttpError(403, "forbidden: the token is valid for another scan only")
    if not is_allowed:
        raise HttpError(403, "forbidden: scan tokens cannot be used on this route")
    deps = request.app[DEPS]
    if is_long_ago(await deps.reads.ended_at(principal.scan_id), time.time(), deps.scan_token_grace_s):
        raise unauthorized("the scan has ended and the grace period is over")
