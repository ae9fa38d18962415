"""Results: stored bytes out, digest in."""

from aiohttp import web

from skydriver_api.deps import DEPS
from skydriver_api.failures import body_of
from skydriver_api.idempotency import ask
from skydriver_api.routes.answers import json_response, parsed_body, with_result
from skydriver_api.routes.lookup import not_found, scan_id_of, visible
from skydriver_api.routes.sender import sender_of
from skydriver_common.model import wire
from skydriver_common.model.commands import PutResult
from skydriver_common.payloads.reports import is_empty_object, split_result


async def get_result(request: web.Request) -> web.StreamResponse:
    """``GET /scan/{id}/result``: REST contract 4.12."""
    reads = request.app[DEPS].reads
    view = await visible(request, reads, await reads.result(scan_id_of(request)), hides_deleted=True)
    return await with_result(request, view)


async def put_result(request: web.Request) -> web.StreamResponse:
    """``PUT /scan/{id}/result``: REST contract 4.12. The first, empty, skymaps of a scan are answered and not stored."""
    reads = request.app[DEPS].reads
    scan_id = scan_id_of(request)
    sender = sender_of(request)
    raw = await request.read()
    skymap, is_final = await parsed_body(raw, split_result)
    if await reads.manifest(scan_id) is None:
        raise not_found(scan_id)
    if is_empty_object(skymap):
        return json_response(b"{}")
    digest = await request.app[DEPS].blobs.put(skymap)
    command = PutResult(scan_id=scan_id, digest=digest, size_bytes=len(skymap), is_final=is_final, **sender)
    stands = wire.decode(body_of(await ask(request, command, b"")))
    if stands["digest"] == digest:
        final = b"true" if stands["is_final"] else b"false"
        return json_response(b'{"scan_id":"%b","skyscan_result":%b,"is_final":%b}' % (scan_id.encode(), skymap, final))
    return await with_result(request, await reads.result(scan_id))
