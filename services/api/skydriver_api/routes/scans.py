"""Scans: request, rescan, read, patch, delete; manifest, request and i3 event."""

from functools import partial

from aiohttp import web

from skydriver_api.deps import DEPS, Deps
from skydriver_api.http.access import ROLES
from skydriver_api.http.delivery import hold_memory
from skydriver_api.http.http_errors import HttpError, body_of, check_client
from skydriver_api.images.resolver import CatalogUnavailable, ImageNotFound, ImageTooOld
from skydriver_api.payloads.projections import Projection, project, projection_of_query
from skydriver_api.payloads.requests import (
    parse_delete,
    parse_patch,
    parse_rescan,
    parse_scan_request,
)
from skydriver_api.reads.view_queries import ManifestView
from skydriver_api.routes.idempotency import recorded_reply_for, send_idempotent
from skydriver_api.routes.producer_headers import producer_headers_of
from skydriver_api.routes.responses import LoadedResult, json_response, load_result, parsed_body
from skydriver_api.routes.scan_lookup import not_found, resolve_scan, scan_id_of, send_scan_command
from skydriver_common.auth import Role
from skydriver_common.faults import TryLater
from skydriver_common.log import blobs
from skydriver_common.model.commands import DeleteScan, PatchManifest, RequestScan, RescanScan
from skydriver_common.model.ids import new_i3_event_id, new_scan_id

_STORED_EVENT_FIELDS = b'"event_i3live_json_dict":"use \'i3_event_id\'","event_i3live_json_dict__hash":null'
"""The two fields in a stored Manifest: neighbours, in this order, so that one replacement inserts the event."""


async def request_scan(request: web.Request) -> web.StreamResponse:
    """``POST /scan``: REST contract 4.5."""
    deps = request.app[DEPS]
    raw = await request.read()
    parsed = await parsed_body(
        raw, partial(parse_scan_request, clusters=deps.clusters, limits=deps.worker_limits, variables=deps.user_variables)
    )
    recorded = await recorded_reply_for(request, raw)
    if recorded is not None:
        return json_response(project(body_of(recorded), parsed.manifest_projection))
    tag = await _resolved_tag(deps, parsed.docker_tag)
    if parsed.event is None and not await deps.reads.i3_event_exists(parsed.i3_event_id):
        raise HttpError(400, "i3_event_id: not found")
    digest = None if parsed.event is None else await deps.blobs.put(parsed.event)
    command = RequestScan(
        scan_id=new_scan_id(),
        request=parsed.scan_request(docker_tag=tag, i3_event_id=parsed.i3_event_id or new_i3_event_id()),
        event_digest=digest,
    )
    body = body_of(await send_idempotent(request, command, raw))
    return json_response(project(body, parsed.manifest_projection))


async def rescan_scan(request: web.Request) -> web.StreamResponse:
    """``POST /scan/{id}/actions/rescan``: REST contract 4.6."""
    deps = request.app[DEPS]
    raw = await request.read()
    parsed = parse_rescan(raw)
    scan_id = scan_id_of(request)
    command = RescanScan(
        scan_id=scan_id, new_scan_id=new_scan_id(), abort_first=parsed.abort_first, replace_scan=parsed.replace_scan
    )
    found = await deps.reads.manifest(scan_id)
    reply = await send_scan_command(request, command, raw, found, no_redirect=parsed.no_redirect)
    return json_response(project(body_of(reply), parsed.manifest_projection))


async def get_scan(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}``: REST contract 4.8."""
    deps = request.app[DEPS]
    view = await deps.reads.manifest(scan_id_of(request))
    view = await resolve_scan(request, deps.reads, view, hides_deleted=True)
    result = await load_result(request, await deps.reads.result(view.scan_id))
    return await _with_manifest(request, view.body, result)


async def delete_scan(request: web.Request) -> web.StreamResponse:
    """``DELETE /scan/{id}``: REST contract 4.8."""
    deps = request.app[DEPS]
    raw = await request.read()
    parsed = parse_delete(raw)
    scan_id = scan_id_of(request)
    command = DeleteScan(scan_id=scan_id, delete_completed_scan=parsed.delete_completed_scan)
    found = await deps.reads.manifest(scan_id)
    # before the command: a 503 must not hide what has taken effect
    result = await load_result(request, await deps.reads.result(scan_id))
    reply = await send_scan_command(request, command, raw, found, no_redirect=parsed.no_redirect)
    return await _with_manifest(request, project(body_of(reply), parsed.manifest_projection), result)


async def get_manifest(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/manifest``: REST contract 4.9."""
    deps = request.app[DEPS]
    projection = projection_of_query(request.query.get("projection", ""))
    view = await deps.reads.manifest(scan_id_of(request))
    view = await resolve_scan(request, deps.reads, view, hides_deleted=True)
    if Role.SYSTEM in request[ROLES] and (projection is None or "event_i3live_json_dict" in projection):
        return json_response(await _with_event(request, view, projection))
    return json_response(project(view.body, projection))


async def patch_manifest(request: web.Request) -> web.StreamResponse:
    """``PATCH /scan/{id}/manifest``: REST contract 4.10."""
    raw = await request.read()
    parsed = await parsed_body(raw, parse_patch)
    command = PatchManifest(
        scan_id=scan_id_of(request),
        progress=parsed.progress,
        event_metadata=parsed.event_metadata,
        scan_metadata=parsed.scan_metadata,
        **producer_headers_of(request),
    )
    return json_response(body_of(await send_idempotent(request, command, raw)))


async def get_i3_event(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/i3-event``: REST contract 4.11."""
    deps = request.app[DEPS]
    view = await resolve_scan(request, deps.reads, await deps.reads.manifest(scan_id_of(request)))
    return json_response(b'{"i3_event":%b}' % await _event(request, view))


async def get_scan_request(request: web.Request) -> web.StreamResponse:
    """``GET /scan-request/{id}``: REST contract 4.15."""
    scan_id = scan_id_of(request)
    body = await request.app[DEPS].reads.scan_request(scan_id)
    if body is None:
        raise not_found(scan_id)
    return json_response(body)


async def _with_manifest(request: web.Request, manifest: bytes, result: LoadedResult) -> web.StreamResponse:
    return await result.respond(request, before=b'{"manifest":%b,"result":' % manifest, after=b"}")


async def _event(request: web.Request, view: ManifestView) -> bytes:
    """Return the i3 event as it was submitted, when there is memory for it. Raises HttpError 404 when it is not stored, TryLater."""
    pool = request.app[DEPS].reads.pool
    try:
        # packed, unpacked, and within the response: two of these at a time
        await hold_memory(request, 2 * await blobs.size_of(pool, view.event_digest))
        check_client(request)
        return await blobs.get(pool, view.event_digest)
    except blobs.BlobMissing as error:
        raise HttpError(
            404, "the scan's i3 event is not stored; a projection without event_i3live_json_dict still works"
        ) from error


async def _with_event(request: web.Request, view: ManifestView, projection: Projection) -> bytes:
    """Return the manifest with the event inserted as it was submitted."""
    event = await _event(request, view)
    if projection is None:
        return view.body.replace(
            _STORED_EVENT_FIELDS, b'"event_i3live_json_dict":%b,"event_i3live_json_dict__hash":null' % event, 1
        )
    rest = project(view.body, projection - {"event_i3live_json_dict"})
    comma = b"" if rest == b"{}" else b","
    return b'%b%b"event_i3live_json_dict":%b}' % (rest[:-1], comma, event)


async def _resolved_tag(deps: Deps, docker_tag: str) -> str:
    try:
        return await deps.images.resolve(docker_tag)
    except (ImageNotFound, ImageTooOld) as error:
        raise HttpError(400, f"docker_tag: {error}") from error
    except CatalogUnavailable as error:
        raise TryLater(str(error), 5.0) from error
