"""Which replica acts on what it sees: a Kubernetes Lease, held by one at a time.

The client library's leader election is not used: it has no timeouts, lets connection errors escape and never releases the lease,
so that after every restart nobody would watch for a whole lease time.

The Lease also names its installation, by an id that is stored in the database: a replica on another database does not take over what
a living installation watches.
"""

import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog
from kubernetes_asyncio.client import ApiClient, CoordinationV1Api, V1Lease, V1LeaseSpec, V1ObjectMeta

from skydriver_common.faults import TryLater
from skydriver_common.kubernetes.client import AlreadyExists, KubernetesRejected, NotFound, kubernetes_faults
from skydriver_dispatcher.divergence_guard import HELP

logger = structlog.get_logger(__name__)

INSTALLATION_ANNOTATION = "skydriver.icecube.wisc.edu/installation"
_SAFE_SHARE = 0.9
"""Of the lease's duration: for so long after its renewal began, its holder may act."""
_OTHER_INSTALLATION_FACTOR = 4
"""The lease of another installation counts as abandoned when it is unchanged for so many times its duration."""


async def _always() -> bool:
    return True


class Leadership:
    """Acquires, renews and releases one Lease. holder: this replica.

    Clocks of replicas are not compared: a foreign lease is free when it did not change for its whole duration as *this*
    replica's clock measures it. ``leads`` ends before the lease does, so that two never act at once.

    installation: its id from the database. may_lead: whether the installation runs its scans here; raises TryLater.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        namespace: str,
        name: str,
        holder: str,
        lease_s: float = 15.0,
        timeout_s: float = 5.0,
        installation: str = "",
        may_lead: Callable[[], Awaitable[bool]] = _always,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = CoordinationV1Api(client)
        self._namespace = namespace
        self._name = name
        self._holder = holder
        self._lease_s = lease_s
        self._timeout_s = timeout_s
        self._clock = clock
        self._until = 0.0
        self._seen: tuple[str, str] | None = None
        self._seen_at = 0.0
        self._installation = installation
        self._may_lead = may_lead
        self.term = 0
        """Incremented when the lease is acquired after somebody else had it, or nobody."""
        self.is_elsewhere = False
        """Whether somebody else holds the lease, as far as is known."""
        self.is_misplaced = False
        """Whether the lease is another installation's, or this installation runs its scans somewhere else."""

    @property
    def leads(self) -> bool:
        """Whether this replica may act now."""
        return self._clock() < self._until

    async def renew(self) -> float:
        """Acquire or renew the lease if that is possible; return the seconds until the next call. Raises TryLater."""
        began = self._clock()
        led = self.leads
        if not await self._may_lead_here():
            self._until, self.is_elsewhere, self.is_misplaced = 0.0, True, True
            logger.error("lease.misplaced", lease=self._name, namespace=self._namespace, help=HELP)
        elif await self._acquire():
            self._until, self.is_elsewhere, self.is_misplaced = began + self._lease_s * _SAFE_SHARE, False, False
        if self.leads != led:
            logger.info("lease.acquired" if self.leads else "lease.lost", lease=self._name)
        return self._lease_s / 3 * random.uniform(0.8, 1.0)  # noqa: S311  (spreads replicas, no secret)

    async def _may_lead_here(self) -> bool:
        try:
            return await self._may_lead()
        except TryLater as fault:
            if not self.leads:
                raise
            logger.warning("lease.check-failed", what=fault.what)  # who leads already continues
            return True

    async def release(self) -> None:
        """Let another replica lead at once; a failure is harmless, the lease expires by itself."""
        if not self.leads:
            return
        self._until = 0.0
        try:
            lease = await self._read()
            if lease is not None and lease.spec is not None and lease.spec.holder_identity == self._holder:
                lease.spec.holder_identity = ""
                await self._replace(lease)
        except (TryLater, KubernetesRejected, NotFound):
            logger.info("lease.release-failed", lease=self._name)

    async def _acquire(self) -> bool:
        try:
            lease = await self._read()
            if lease is None:
                return await self._create()
            if not self._is_free(lease):
                self._until, self.is_elsewhere = 0.0, True
                return False
            spec = lease.spec
            is_new = spec.holder_identity != self._holder
            lease.metadata.annotations = {**(lease.metadata.annotations or {}), INSTALLATION_ANNOTATION: self._installation}
            if is_new:
                spec.acquire_time, spec.lease_transitions = _now(), (spec.lease_transitions or 0) + 1
            spec.holder_identity, spec.renew_time, spec.lease_duration_seconds = self._holder, _now(), round(self._lease_s)
            if not await self._replace(lease):
                return False
            self.term += is_new
            return True
        except KubernetesRejected as refusal:
            raise TryLater(f"cannot acquire the Lease {self._name}: {refusal.reason}", 10.0) from refusal

    def _is_free(self, lease: V1Lease) -> bool:
        if lease.spec is None:
            lease.spec = V1LeaseSpec()
        holder = lease.spec.holder_identity
        if not holder or holder == self._holder:
            return True
        seen = (holder, str(lease.metadata.resource_version))
        if seen != self._seen:
            self._seen, self._seen_at = seen, self._clock()
        duration_s = lease.spec.lease_duration_seconds or self._lease_s
        owner = (lease.metadata.annotations or {}).get(INSTALLATION_ANNOTATION) or self._installation
        self.is_misplaced = owner != self._installation
        if self.is_misplaced:
            logger.error("lease.of-another-installation", lease=self._name, namespace=self._namespace, holder=holder, help=HELP)
            duration_s *= _OTHER_INSTALLATION_FACTOR
        return self._clock() - self._seen_at > duration_s

    async def _read(self) -> V1Lease | None:
        try:
            with kubernetes_faults("read the lease"):
                return await self._api.read_namespaced_lease(self._name, self._namespace, _request_timeout=self._timeout_s)
        except NotFound:
            return None

    async def _create(self) -> bool:
        spec = V1LeaseSpec(
            holder_identity=self._holder, acquire_time=_now(), renew_time=_now(),
            lease_duration_seconds=round(self._lease_s), lease_transitions=0,
        )  # fmt: skip
        metadata = V1ObjectMeta(
            name=self._name, namespace=self._namespace, annotations={INSTALLATION_ANNOTATION: self._installation}
        )
        lease = V1Lease(metadata=metadata, spec=spec)
        try:
            with kubernetes_faults("create the lease"):
                await self._api.create_namespaced_lease(self._namespace, lease, _request_timeout=self._timeout_s)
        except AlreadyExists:
            return False
        self.term += 1
        return True

    async def _replace(self, lease: V1Lease) -> bool:
        """Write it, unless somebody else has meanwhile (its version has changed: 409)."""
        try:
            with kubernetes_faults("renew the lease"):
                await self._api.replace_namespaced_lease(self._name, self._namespace, lease, _request_timeout=self._timeout_s)
        except NotFound:
            return False
        return True


def _now() -> datetime:
    return datetime.now(UTC)
