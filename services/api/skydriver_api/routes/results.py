"""Results: stored bytes out, digest in."""

from aiohttp import web

from skydriver_api.commands.idempotency import ask
from skydriver_api.http.deps import DEPS
from skydriver_api.http.failures import body_of
from skydriver_api.http.middleware import forget_body
from skydriver_api.http.route import MIB
from skydriver_api.reads.view_queries import ResultView, envelope_of_result
from skydriver_api.routes.producer_headers import sender_of
from skydriver_api.routes.responses import ResultInHand, json_response, parsed_body, with_result
from skydriver_api.routes.scan_lookup import not_found, scan_id_of, visible
from skydriver_common.log import blobs
from skydriver_common.model import event_codec
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
    skymap, is_final = await parsed_body(await request.read(), split_result)
    if await reads.manifest(scan_id) is None:
        raise not_found(scan_id)
    if is_empty_object(skymap):
        return json_response(b"{}")
    request._read_bytes = b""  # the skymap is a copy
    packed = await blobs.pack(skymap)
    small = skymap if len(skymap) <= MIB else None
    del skymap
    forget_body(request, keeping=len(packed.body))
    await request.app[DEPS].blobs.store(packed)
    command = PutResult(scan_id=scan_id, digest=packed.digest, size_bytes=packed.size, is_final=is_final, **sender)
    stands = event_codec.decode(body_of(await ask(request, command, b"")))
    if _wants_little(request):
        return web.Response(body=b"{}", content_type="application/json", headers={"Preference-Applied": "return=minimal"})
    if stands["digest"] != packed.digest:
        forget_body(request, keeping=0)
        del packed
        return await with_result(request, await reads.result(scan_id))
    view = ResultView(
        scan_id=scan_id, is_deleted=False, replaced_by=None, digest=packed.digest, is_final=stands["is_final"], size=packed.size
    )
    if small is None:
        return await ResultInHand(b"", view, packed).answer(request)
    before, after = envelope_of_result(view)
    return json_response(b"".join((before, small, after)))


def _wants_little(request: web.Request) -> bool:
    """Whether the client has asked not to get back what it has sent (RFC 7240, section 4.2)."""
    preferences = ",".join(request.headers.getall("Prefer", ()))
    return any(one.replace(" ", "").lower() == "return=minimal" for one in preferences.replace(";", ",").split(","))
