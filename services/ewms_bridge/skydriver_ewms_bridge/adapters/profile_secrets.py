"""Delivers a scan's credentials to its pod: two keys of the scan's own Secret, which the pod waits for.

The dispatcher has created the Secret, with the Job; here it is only added to. Values are written and never read back: this service
needs the right to patch Secrets, not to see them. Source: REST contract 9.4, scanner contract 1.
"""

import base64

import orjson
from kubernetes_asyncio.client import ApiClient, CoreV1Api

from skydriver_common.kubernetes import names
from skydriver_common.kubernetes.client import KubernetesRejected, NotFound, kubernetes_faults
from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.ewms_types import Json, StartupUpload
from skydriver_ewms_bridge.ports import ScanNotReady
from skydriver_ewms_bridge.retry_policy import ACCESS_DENIED_RETRY_S, MISSING_SECRET_RETRY_S


class ProfileSecrets:
    """The port `CredentialSink` for the launcher ``kubernetes``. timeout_s: for each call."""

    def __init__(self, client: ApiClient, *, namespace: str, timeout_s: float = 15.0) -> None:
        self._core = CoreV1Api(client)
        self._namespace = namespace
        self._timeout_s = timeout_s

    async def put_upload(self, scan_id: ScanId, upload: StartupUpload) -> None:
        """See `ports.CredentialSink`. Raises TryLater; ScanNotReady while there is no Secret."""
        await self._put(scan_id, names.UPLOAD_KEY, {"method": upload.method, "url": upload.url})

    async def put_profile(self, scan_id: ScanId, profile: dict[str, Json]) -> None:
        """See `ports.CredentialSink`. Raises TryLater; ScanNotReady while there is no Secret."""
        await self._put(scan_id, names.PROFILE_KEY, profile)

    async def remove(self, scan_id: ScanId) -> None:
        """See `ports.CredentialSink`; a Secret that is gone with its Job is fine. Raises TryLater."""
        try:
            await self._patch(scan_id, {names.PROFILE_KEY: None, names.UPLOAD_KEY: None})
        except NotFound:
            return

    async def _put(self, scan_id: ScanId, key: str, content: dict[str, Json]) -> None:
        try:
            await self._patch(scan_id, {key: base64.b64encode(orjson.dumps(content)).decode()})
        except NotFound as error:
            raise ScanNotReady("the scan's Secret does not exist yet", MISSING_SECRET_RETRY_S) from error

    async def _patch(self, scan_id: ScanId, data: dict[str, str | None]) -> None:
        try:
            with kubernetes_faults("deliver the credentials of a scan"):
                await self._core.patch_namespaced_secret(
                    names.secret_name(scan_id), self._namespace, {"data": data}, _request_timeout=self._timeout_s
                )
        except KubernetesRejected as refusal:
            raise ScanNotReady(f"the scan's Secret cannot be written: {refusal.reason}", ACCESS_DENIED_RETRY_S) from refusal
