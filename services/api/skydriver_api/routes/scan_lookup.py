"""The scan that a request is about: not found, replaced, deleted. Source: REST contract 1.4, 1.5."""

from typing import Protocol, TypeVar

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.http.access import ROLES
from skydriver_api.http.http_errors import HttpError
from skydriver_api.http.query_params import parse_flag
from skydriver_api.reads.view_queries import ViewQueries
from skydriver_api.routes.idempotency import path_for_scan, recorded_reply_for, send_idempotent
from skydriver_common.auth import Role
from skydriver_common.model.commands import Command
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply, scan_not_found


class FoundScan(Protocol):
    """What every view of a scan has."""

    @property
    def is_deleted(self) -> bool:
        """Hidden unless ``include_deleted`` is set."""

    @property
    def replaced_by(self) -> ScanId | None:
        """The scan that replaced this one."""


Found = TypeVar("Found", bound=FoundScan)


def scan_id_of(request: web.Request) -> ScanId:
    """Return the scan id in the path."""
    return ScanId(request.match_info["scan_id"])


def not_found(scan_id: ScanId) -> HttpError:
    """The error for an unknown or hidden scan."""
    return HttpError(404, scan_not_found(scan_id).reason)


async def scan_must_exist(request: web.Request) -> None:
    """Refuse a request for an unknown scan before the client sends its body. Raises HttpError 404, TryLater."""
    if "scan_id" in request.match_info and await request.app[DEPS].reads.manifest(scan_id_of(request)) is None:
        raise not_found(scan_id_of(request))


async def resolve_scan(
    request: web.Request,
    reads: ViewQueries,
    found: Found | None,
    *,
    no_redirect: bool = False,
    hides_deleted: bool = False,
) -> Found:
    """Return the scan if it may be shown here.

    no_redirect: from the body; the query is read in any case. hides_deleted: the route has the parameter ``include_deleted``.
    Raises HttpError 404, HTTPTemporaryRedirect (307, same method, body and query) for a replaced scan.
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
            raise web.HTTPTemporaryRedirect(path_for_scan(request, target) + query)
    if found.is_deleted and not include_deleted:
        raise HttpError(404, f"scan {scan_id} is deleted; add include_deleted=true to read it")
    return found


async def send_scan_command(
    request: web.Request, command: Command, raw: bytes, found: FoundScan | None, *, no_redirect: bool
) -> Reply:
    """Send a command for a scan that may have been replaced, and return the service's reply.

    A request that is retried with its ``Idempotency-Key`` gets its recorded reply, even if it was what replaced the scan. (The reply
    is looked up after the scan: where the replacement is visible, so is the reply, which was recorded in the same transaction.)
    Raises what ``resolve_scan`` and ``send_idempotent`` raise.
    """
    try:
        await resolve_scan(request, request.app[DEPS].reads, found, no_redirect=no_redirect)
    except web.HTTPTemporaryRedirect:
        recorded = await recorded_reply_for(request, raw)
        if recorded is None:
            raise
        return recorded
    return await send_idempotent(request, command, raw)
