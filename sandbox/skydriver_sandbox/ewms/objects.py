"""An object store for one installation: PUT, GET, HEAD and DELETE of `/<bucket>/<key>` by presigned address.

Objects are files; a PUT becomes visible in one step, so a reader never meets half an object.
"""

import asyncio
import hashlib
import os
import uuid
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from skydriver_sandbox.ewms.settings import Settings
from skydriver_sandbox.ewms.sigv4 import SignatureRefusedError, check_presigned

# Three characters at least keep a bucket apart from `/v1`; the other names are routes of the stand-in.
BUCKET = r"/{bucket:(?!sandbox/|issuer/|healthz)[a-z0-9][a-z0-9.-]{2,62}}/{key:.+}"
_MAX_OBJECT_BYTES = 256 * 1024 * 1024
_CHUNK_BYTES = 256 * 1024


class ObjectStore:
    """Files below `folder`; names are hashed, so that no key can lead out of it."""

    def __init__(self, folder: Path, settings: Settings) -> None:
        self._folder = folder
        self._settings = settings

    def routes(self) -> list[web.RouteDef]:
        return [
            web.put(BUCKET, self.put),
            web.get(BUCKET, self.get, allow_head=True),
            web.delete(BUCKET, self.delete),
        ]

    def _path(self, request: web.Request) -> Path:
        name = f"{request.match_info['bucket']}/{request.match_info['key']}"
        return self._folder / hashlib.sha256(name.encode()).hexdigest()

    def _check(self, request: web.Request) -> None:
        headers = {name.lower(): value for name, value in request.headers.items()}
        check_presigned(
            self._settings.s3_key_id,
            self._settings.s3_secret,
            self._settings.s3_region,
            method=request.method,
            path=request.path,
            query=list(request.query.items()),
            headers=headers,
            now=datetime.now(UTC),
        )

    async def put(self, request: web.Request) -> web.Response:
        try:
            self._check(request)
        except SignatureRefusedError as error:
            return _refusal(error.code, 403)
        await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True, mode=0o700)
        scratch = self._folder / f".{uuid.uuid4().hex}.part"
        file = os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        size, digest = 0, hashlib.md5(usedforsecurity=False)
        try:
            with file:
                async for chunk in request.content.iter_chunked(_CHUNK_BYTES):
                    size += len(chunk)
                    if size > _MAX_OBJECT_BYTES:
                        return _refusal("EntityTooLarge", 400)
                    digest.update(chunk)
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(scratch.replace, self._path(request))
        finally:
            await asyncio.to_thread(scratch.unlink, missing_ok=True)
        return web.Response(headers={"ETag": f'"{digest.hexdigest()}"'})

    async def get(self, request: web.Request) -> web.StreamResponse:
        try:
            self._check(request)
        except SignatureRefusedError as error:
            return _refusal(error.code, 403)
        path = self._path(request)
        if not await asyncio.to_thread(path.is_file):
            return _refusal("NoSuchKey", 404)
        return web.FileResponse(path, chunk_size=_CHUNK_BYTES, headers={"Content-Type": "binary/octet-stream"})

    async def delete(self, request: web.Request) -> web.Response:
        try:
            self._check(request)
        except SignatureRefusedError as error:
            return _refusal(error.code, 403)
        await asyncio.to_thread(self._path(request).unlink, missing_ok=True)
        return web.Response(status=204)


def _refusal(code: str, status: int) -> web.Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code></Error>'
    return web.Response(status=status, text=body, content_type="application/xml")
