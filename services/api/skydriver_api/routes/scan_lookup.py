"""Finding the scan a request is about: unknown, replaced, deleted. Source: REST contract 1.4, 1.5."""

from typing import Protocol, TypeVar

from aiohttp import web

from skydriver_api.commands.idempotency import ask, path_about, recorded_reply_for
from skydriver_api.http.deps import DEPS
from skydriver_api.http.failures import HttpProblem
from skydriver_api.http.middleware import ROLES
from skydriver_api.http.query_params import parse_flag
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_common.auth import Role
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply


class FoundScan(Protocol):
    """What every view of a scan can say."""

    @property
    def is_deleted(self) -> bool:
        """Hidden, unless asked for."""

    @property
    def replaced_by(self) -> ScanId | None:
        """The scan that replaced this one."""


Found = TypeVar("Found", bound=FoundScan)


def scan_id_of(request: web.Request) -> ScanId:
    """The scan id in the path."""
    return ScanId(request.match_info["scan_id"])


def not_found(scan_id: ScanId) -> HttpProblem:
    """The answer for an unknown or hidden scan."""
    return HttpProblem(404, f"Scan {scan_id} is not known")


async def visible(
    request: web.Request,
    reads: ViewQueries,
    found: Found | None,
    *,
    no_redirect: bool = False,
    hides_deleted: bool = False,
) -> Found:
    """The scan, if it may be shown here.

    no_redirect: from the body; the query is looked at in any case. hides_deleted: the route knows ``include_deleted``.
    Raises HttpProblem 404, HTTPTemporaryRedirect (307, same method, body and query) for a replaced scan.
    """
    scan_id = scan_id_of(request)
    include_deleted = parse_flag(request, "include_deleted") if hides_deleted else True
    no_redirect = parse_flag(request, "no_redirect") or no_redirect
    if found is None:
        raise not_found(scan_id)
    if found.replaced_by and not no_redirect and Role.USER in request[ROLES]:
        target = await reads.end_of_chain(scan_id)
        if target != scan_id:
            query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
            raise web.HTTPTemporaryRedirect(path_about(request, target) + query)
    if found.is_deleted and not include_deleted:
        raise HttpProblem(404, f"Scan {scan_id} is deleted (include_deleted shows it)")
    return found


async def ask_about(request: web.Request, command: Command, raw: bytes, found: FoundScan | None, *, no_redirect: bool) -> Reply:
    """The service's reply to a request about a scan that may be redirected.

    One that is repeated with its ``Idempotency-Key`` gets its recorded reply, even if it was what replaced the scan. (The look for
    it comes after the look at the scan: what is seen to be replaced has its reply recorded, in the same transaction.)
    Raises what ``visible`` and ``ask`` raise.
    """
    try:
        await visible(request, request.app[DEPS].reads, found, no_redirect=no_redirect)
    except web.HTTPTemporaryRedirect:
        before = await recorded_reply_for(request, raw)
        if before is None:
            raise
        return before
    return await ask(request, command, raw)
