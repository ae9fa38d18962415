"""Hands a scan's credentials to a scanner on the same machine: two files in the scan's folder, readable by their owner only.

The scanner waits for them, so each appears whole or not at all. Source: REST contract 9.4, scanner contract 1.
"""

import asyncio
import re
from pathlib import Path

import orjson

from skydriver_common.atomic_write import atomic_write
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.ewms_types import Json, StartupUpload

PROFILE_NAME = "ewms.json"
UPLOAD_NAME = "startup-upload.json"

_SCAN_ID = re.compile(r"[0-9a-zA-Z-]{1,64}")


class ProfileFiles:
    """The port `CredentialSink` for the local launcher.

    work_dir: has one folder per scan, named by its id; a missing one is made.
    """

    def __init__(self, work_dir: Path) -> None:
        self._work_dir = work_dir

    async def put_upload(self, scan_id: ScanId, upload: StartupUpload) -> None:
        """See `ports.CredentialSink`. Raises OSError when the folder cannot be written."""
        await self._put(scan_id, UPLOAD_NAME, {"method": upload.method, "url": upload.url})

    async def put_profile(self, scan_id: ScanId, profile: dict[str, Json]) -> None:
        """See `ports.CredentialSink`. Raises OSError when the folder cannot be written."""
        await self._put(scan_id, PROFILE_NAME, profile)

    async def remove(self, scan_id: ScanId) -> None:
        """See `ports.CredentialSink`."""
        folder = self._folder(scan_id)
        for name in (PROFILE_NAME, UPLOAD_NAME):
            await asyncio.to_thread((folder / name).unlink, missing_ok=True)

    async def _put(self, scan_id: ScanId, name: str, content: dict[str, Json]) -> None:
        await asyncio.to_thread(_write_whole, self._folder(scan_id) / name, orjson.dumps(content))

    def _folder(self, scan_id: ScanId) -> Path:
        if _SCAN_ID.fullmatch(scan_id) is None:
            raise ValueError("not a scan id")
        return self._work_dir / scan_id


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with atomic_write(path, mode=0o600) as file:
        file.write(content)
