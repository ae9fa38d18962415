"""The files that pass between a scanner and whoever runs it: queue profiles in, `startup.json` out.

`ewms.json` is written by SkyDriver when the workflow's queues are active. Upstream has a second container upload
`startup.json` and ignore the answer; here the scanner does it itself, to the address in the upload file, and insists.
"""

import asyncio
import json
import logging
from pathlib import Path

import aiohttp

from skydriver_sandbox.queues import BadProfileError, QueueProfile, read_profile

log = logging.getLogger("sandbox.scanner")
_LOOK_EVERY_S = 0.1
_UPLOAD_TIMEOUT_S = 60.0
_MAX_PAUSE_S = 10.0


class HandoverFailedError(Exception):
    """A file that should have been there is not, or cannot be used."""


async def wait_for_file(path: Path, *, limit_s: float) -> bytes:
    """The content of a file that appears in one step. Raises HandoverFailedError after limit_s seconds."""
    try:
        async with asyncio.timeout(limit_s):
            while True:
                try:
                    return await asyncio.to_thread(path.read_bytes)
                except FileNotFoundError:
                    await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise HandoverFailedError(f"{path.name} did not appear within {limit_s:g} s") from None
    except OSError as error:
        raise HandoverFailedError(f"{path.name} cannot be read: {type(error).__name__}") from error


async def queue_profiles(path: Path, *, limit_s: float) -> tuple[QueueProfile, QueueProfile]:
    """(to the workers, from the workers), as soon as `ewms.json` is there. Raises HandoverFailedError."""
    try:
        profiles = json.loads(await wait_for_file(path, limit_s=limit_s))
        return read_profile("toclient", profiles["toclient"]), read_profile("fromclient", profiles["fromclient"])
    except (ValueError, KeyError, TypeError, BadProfileError) as error:
        what = str(error) if isinstance(error, BadProfileError) else type(error).__name__
        raise HandoverFailedError(f"{path.name} holds no queue profiles: {what}") from error


async def upload_startup(upload_json: Path, startup_json: Path, *, limit_s: float) -> None:
    """Put `startup.json` where the workers fetch it; the address is read again each time. Raises HandoverFailedError.

    upload_json: `{"method": "PUT", "url": "<presigned address>"}`.
    """
    content = await asyncio.to_thread(startup_json.read_bytes)
    pause, last = 0.2, "no answer"
    try:
        async with asyncio.timeout(limit_s), aiohttp.ClientSession() as session:
            while True:
                try:
                    order = json.loads(await wait_for_file(upload_json, limit_s=limit_s))
                    timeout = aiohttp.ClientTimeout(total=_UPLOAD_TIMEOUT_S)
                    async with session.request(order["method"], order["url"], data=content, timeout=timeout) as answer:
                        if answer.ok:
                            log.info("startup.json uploaded, %d bytes", len(content))
                            return
                        last = f"HTTP {answer.status}"
                except (aiohttp.ClientError, TimeoutError, OSError, ValueError, KeyError, TypeError) as error:
                    last = type(error).__name__
                log.warning("startup.json not uploaded (%s), trying again", last)
                await asyncio.sleep(pause)
                pause = min(_MAX_PAUSE_S, pause * 2)
    except TimeoutError:
        raise HandoverFailedError(f"startup.json could not be uploaded: {last}") from None
