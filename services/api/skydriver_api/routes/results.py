"""Results: the bytes are sent as they are stored; a command carries only their digest."""

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.http.http_errors import body_of
from skydriver_api.http.request_body import release_body
from skydriver_api.http.route import MIB
from skydriver_api.reads.result_cache import ResultView, envelope_of_result
from skydriver_api.routes.idempotency import send_idempotent
from skydriver_api.routes.producer_headers import producer_headers_of
from skydriver_api.routes.responses import LoadedResult, json_response, parsed_body, respond_with_result
from skydriver_api.routes.scan_lookup import not_found, resolve_scan, scan_id_of
from skydriver_common.log import blobs
from skydriver_common.model import event_codec
from skydriver_common.model.commands import PutResult
from skydriver_common.payloads.reports import is_empty_object, split_result


async def get_result(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/result``: REST contract 4.12."""
    reads = request.app[DEPS].reads
    view = await resolve_scan(request, reads, await reads.result(scan_id_of(request)), hides_deleted=True)
    return await respond_with_result(request, view)


async def put_result(request: web.Request) -> web.StreamResponse:
    """``PUT /scan/{id}/result``: REST contract 4.12. Empty skymaps, which scanners send first, are accepted and not stored."""
    reads = request.app[DEPS].reads
    scan_id = scan_id_of(request)
    producer = producer_headers_of(request)
    skymap, is_final = await parsed_body(await request.read(), split_result)
    if await reads.manifest(scan_id) is None:
        raise not_found(scan_id)
    if is_empty_object(skymap):
        return json_response(b"{}")
    request._read_bytes = b""  # the skymap is a copy
    packed = await blobs.pack(skymap)
    small = skymap if len(skymap) <= MIB else None
    del skymap
    release_body(request, keep_bytes=len(packed.body))
    await request.app[DEPS].blobs.store(packed)
    command = PutResult(scan_id=scan_id, digest=packed.digest, size_bytes=packed.size, is_final=is_final, **producer)
    stands = event_codec.decode(body_of(await send_idempotent(request, command, b"")))
    if _prefers_minimal(request):
        return web.Response(body=b"{}", content_type="application/json", headers={"Preference-Applied": "return=minimal"})
    if stands["digest"] != packed.digest:
        release_body(request, keep_bytes=0)
        del packed
        return await respond_with_result(request, await reads.result(scan_id))
    view = ResultView(
        scan_id=scan_id, is_deleted=False, replaced_by=None, digest=packed.digest, is_final=stands["is_final"], size=packed.size
    )
    if small is None:
        return await LoadedResult(b"", view, packed).respond(request)
    before, after = envelope_of_result(view)
    return json_response(b"".join((before, small, after)))


def _prefers_minimal(request: web.Request) -> bool:
    """Whether the client has asked not to get its result back (RFC 7240, section 4.2)."""
    preferences = ",".join(request.headers.getall("Prefer", ()))
    return any(one.replace(" ", "").lower() == "return=minimal" for one in preferences.replace(";", ",").split(","))
