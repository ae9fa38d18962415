"""The Kubernetes client, and what its errors mean: the only place that looks at status codes.

A refusal is told from a fault by whether trying again can help. A 403 is either *exceeded quota*, which passes, or a missing
right, which does not; the API server says which only in its text.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.client.exceptions import ApiException

from skydriver_common.faults import Fault, TryLater
from skydriver_common.kubernetes import quota
from skydriver_common.kubernetes.credentials import NotRenewable, keep_fresh, uses_plugin
from skydriver_common.trust import ca_file

logger = structlog.get_logger(__name__)

_IN_CLUSTER_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
_QUOTA_AFTER_S = 30.0
_QUOTA_UNCOUNTED_AFTER_S = 2.0
_MAX_RETRY_AFTER_S = 60.0
_POOL = 32
_LOAD_TIMEOUT_S = 60.0


class ClusterConfigError(Exception):
    """There is no usable configuration of a cluster; the text says what was looked for."""


class QuotaExceeded(TryLater):
    """The namespace's ResourceQuota has no room for the object now."""


class AlreadyExists(Fault):
    """An object of this name is there."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} exists already")


class NotFound(Fault):
    """There is no such object."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what} does not exist")


class KubernetesRejected(Fault):
    """The API server will not do this, and asking again would not help. reason: its own words, one line."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Forbidden(KubernetesRejected):
    """We may not do this. Asking again a little later helps when the API server has just started and does not know its Roles yet."""


class ResourceVersionExpired(Fault):
    """The resource version is too old: list again."""


OnRequest = Callable[[str, str, str], None]
"""Called with (verb, resource, status or ``none``), for metrics."""
_RESOURCES = frozenset({"jobs", "pods", "secrets", "events", "leases", "configmaps", "log", "resourcequotas"})


class _CountedClient(ApiClient):
    """The library's client, which tells what was asked for and how it was answered."""

    on_request: OnRequest

    async def request(  # type: ignore[override]  # the stub's is not asynchronous, what it returns is awaited
        self, method: str, url: str, query_params: Any = None, **options: Any
    ) -> Any:
        """As the library does."""
        is_watch = any(name == "watch" for name, _ in query_params or ())
        code = "none"
        try:
            response = await super().request(method, url, query_params=query_params, **options)
            code = str(response.status)
            return response
        except ApiException as error:
            code = str(error.status or "none")
            raise
        finally:
            words = [word for word in urlsplit(url).path.split("/") if word in _RESOURCES]
            self.on_request("WATCH" if is_watch else method, words[-1] if words else "other", code)


@asynccontextmanager
async def open_client(
    kubeconfig: str | None = None, *, renew_s: float = 60.0, on_request: OnRequest = lambda *_: None
) -> AsyncIterator[ApiClient]:
    """A client by a kubeconfig file (default: ``KUBECONFIG``) if there is one, else by the pod's service account.

    renew_s: so often at most an exec plugin is asked for a new token. on_request: called after each request. Raises NoCluster.
    """
    configuration = Configuration()
    kubeconfig = kubeconfig or os.environ.get("KUBECONFIG")
    renewing: asyncio.Task[None] | None = None
    try:
        if kubeconfig:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                loader = await config.load_kube_config(kubeconfig, client_configuration=configuration, persist_config=False)
            if uses_plugin(loader):
                renewing = asyncio.create_task(keep_fresh(loader, configuration, every_s=renew_s))
        elif _IN_CLUSTER_TOKEN.exists():
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            raise ClusterConfigError("KUBECONFIG: not set, and no in-cluster service account found")
        configuration.connection_pool_maxsize = _POOL
        if configuration.ssl_ca_cert is None and (bundle := ca_file()) is not None:
            configuration.ssl_ca_cert = str(bundle)
        client = _CountedClient(configuration)
        client.on_request = on_request
    except ClusterConfigError:
        raise
    except (config.ConfigException, NotRenewable) as error:
        raise ClusterConfigError(f"KUBECONFIG: cannot be loaded: {_one_line(str(error))}") from error
    except OSError as error:  # the file, or one that it names
        raise ClusterConfigError(f"KUBECONFIG: cannot be loaded: {error.strerror or type(error).__name__}") from error
    except Exception as error:  # a file of any content; its text is not repeated, it may hold a token
        raise ClusterConfigError(f"KUBECONFIG: not a valid kubeconfig ({type(error).__name__})") from error
    try:
        async with client:
            yield client
    finally:
        if renewing is not None:
            renewing.cancel()


@contextmanager
def kubernetes_faults(what: str) -> Iterator[None]:
    """Translate what a call raises. what: the call in words, for texts.

    Raises TryLater (unavailable, busy, no response in time), QuotaExceeded, AlreadyExists, NotFound, ResourceVersionExpired,
    KubernetesRejected, Forbidden.
    """
    try:
        yield
    except ApiException as error:
        raise fault_for_status(error.status or 0, error.body, dict(error.headers or {}), what) from error
    except TimeoutError as error:
        raise TryLater(f"the Kubernetes API did not respond in time: {what}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise TryLater(f"the Kubernetes API is unreachable: {what}") from error


def fault_for_status(status: int, body: str | bytes | None, headers: dict[str, str], what: str) -> Fault:
    """What an answer that is no success means. body: a Status object of the API, or anything."""
    reason, message = _status(body)
    match status:
        case 403 if quota.is_quota_exceeded(message):
            return QuotaExceeded(f"Kubernetes quota exceeded: {message}", _QUOTA_AFTER_S)
        case 403 if quota.is_quota_unknown(message):
            return TryLater(f"Kubernetes: {message}", _QUOTA_UNCOUNTED_AFTER_S)
        case 404 if "namespaces" in message:
            return TryLater(f"Kubernetes: {message}", 30.0)
        case 404:
            return NotFound(what)
        case 409 if reason == "AlreadyExists" or "exists" in message.lower():
            return AlreadyExists(what)
        case 410:
            return ResourceVersionExpired(message)
        case 401:
            logger.error("kubernetes.not-authenticated", what=what)
            return TryLater("Kubernetes rejected our credentials", 10.0)
        case 403:
            logger.error("kubernetes.forbidden", what=what, message=message)
            return Forbidden(f"Kubernetes denied permission: {message}")
        case 400 | 404 | 405 | 413 | 415 | 422:
            return KubernetesRejected(f"Kubernetes rejected the request: {message or f'HTTP {status}'}")
        case _:  # 408, 409 (conflict), 429, 5xx, and what no API server says
            return TryLater(
                f"Kubernetes responded with HTTP {status} ({message or reason or 'no text'}): {what}", _retry_after_s(headers)
            )


def _status(body: str | bytes | None) -> tuple[str, str]:
    """Reason and message of a Status object; of any other body nothing but its beginning."""
    try:
        status: Any = json.loads(body or "")
    except ValueError:
        status = None
    if not isinstance(status, dict):
        return "", ""
    return str(status.get("reason") or ""), _one_line(str(status.get("message") or ""))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()[:500]


def _retry_after_s(headers: dict[str, str]) -> float:
    for name, value in headers.items():
        if name.lower() == "retry-after":
            try:
                return min(_MAX_RETRY_AFTER_S, max(0.0, float(value)))
            except ValueError:
                break
    return 1.0
