"""An S3 object store: presigned URLs without asking it anything, and one look whether an object is there.

The URLs are signed with botocore's own signer: building a whole botocore client reads files and takes a tenth of a second,
which has no place on the event loop. Source: REST contract 9.4, 9.5.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import aiohttp
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from pydantic import SecretStr
from yarl import URL

from skydriver_common.faults import TryLater
from skydriver_common.trust import client_context
from skydriver_ewms_bridge.retry_policy import ACCESS_DENIED_RETRY_S, SERVER_FAULT_RETRY_S, UNREACHABLE_RETRY_S

EXPIRES_S = 604_800
"""As long as the contract asks for, and the longest that S3 signatures allow."""


class S3Store:
    """The port `ObjectStore`. Build it with `open_store`.

    url: of the store, without bucket (path-style addresses, which every S3 look-alike understands).
    """

    def __init__(
        self,
        session: aiohttp.ClientSession,
        *,
        url: str,
        key_id: str,
        secret: SecretStr,
        bucket: str,
        region: str = "us-east-1",
        expires_s: int = EXPIRES_S,
        timeout_s: float = 10.0,
    ) -> None:
        self._session = session
        self._base = f"{url.rstrip('/')}/{quote(bucket)}"
        self._credentials = Credentials(key_id, secret.get_secret_value())
        self._region = region
        self._expires_s = expires_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=5.0)

    def presigned_get(self, key: str) -> str:
        """See `ports.ObjectStore`."""
        return self._presigned("GET", key)

    def presigned_put(self, key: str) -> str:
        """See `ports.ObjectStore`."""
        return self._presigned("PUT", key)

    async def exists(self, key: str) -> bool:
        """See `ports.ObjectStore`. Raises TryLater when the store is unavailable or denies access."""
        # encoded: a URL that is assembled again no longer matches its signature
        url = URL(self._presigned("HEAD", key), encoded=True)
        try:
            async with self._session.head(url, timeout=self._timeout, allow_redirects=False) as response:
                status = response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as fault:
            raise TryLater("the object store is not reachable", UNREACHABLE_RETRY_S) from fault
        if status == 404:
            return False
        if status != 200:
            after_s = ACCESS_DENIED_RETRY_S if status == 403 else SERVER_FAULT_RETRY_S
            raise TryLater(f"the object store responded with HTTP {status} to a HEAD request", after_s)
        return True

    def _presigned(self, method: str, key: str) -> str:
        request = AWSRequest(method=method, url=f"{self._base}/{quote(key)}")
        S3SigV4QueryAuth(self._credentials, "s3", self._region, expires=self._expires_s).add_auth(request)
        return str(request.url)


@asynccontextmanager
async def open_store(
    *, url: str, key_id: str, secret: SecretStr, bucket: str, region: str = "us-east-1"
) -> AsyncIterator[S3Store]:
    """The store at `url`, for one process; its connections are closed at the end."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=client_context())) as session:
        yield S3Store(session, url=url, key_id=key_id, secret=secret, bucket=bucket, region=region)
