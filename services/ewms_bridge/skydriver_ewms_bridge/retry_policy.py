"""How long the bridge waits: every duration of its work, named and with its reason. Pure. Adapters only classify faults.

What an operator may change is a setting instead: how long a refusal may last, how long a lost request may still be executed, and the
longest pause between probes. Due work that fails for other reasons follows ``skydriver_common.runtime.due_work.RETRY``.
"""

from datetime import timedelta

from skydriver_common.backoff import Backoff

IDLE_S = 15.0
"""The poll behind the wake-ups."""
RECONCILIATION_INTERVAL_S = 60.0

# One workflow per scan
REFUSED_WORKFLOW = Backoff(first_s=2.0, cap_s=60.0)
"""Between two requests for a workflow that EWMS refuses for now: most causes pass, such as an image that is not uploaded yet."""
LOST_WORKFLOW_CHECK = timedelta(seconds=10)
"""Between two looks for a workflow that a request without a response may have made: EWMS may execute it late."""
CONCURRENT_REQUEST_CHECK = timedelta(seconds=1)
"""After another replica asked for the workflow, or a request had no clear outcome, before the next look."""
WRITE_TIMEOUT_S = 45.0
"""Of a call that changes something. Less than the lease of due work, so that its holder still holds it when EWMS has responded."""

# Its queues
FIRST_QUEUE_POLL_S = 0.5
"""Before the second look at queues that are not active yet; later looks follow more slowly, up to the setting."""
TOKEN_WARNING = timedelta(hours=2)
"""Before the queues' tokens expire, the status reports it."""
STARTUP_FILE_CHECK = timedelta(minutes=5)
"""Between two looks for a startup file that is missing: workers cannot start until it appears, so it is looked for until then."""

# Its end
STOP_CONFIRMATION = timedelta(seconds=2)
"""After a request to stop a workflow, until EWMS may show it stopped; longer with each look."""
MAX_STOP_CONFIRMATION = timedelta(seconds=30)
STOP_VERIFICATION_DELAY = timedelta(minutes=5)
"""After a stop: EWMS's activation loop and its submitters have come round by then."""
EARLY_STOP_VERIFICATION_DELAY = timedelta(seconds=30)
"""After a stop that may have raced with the activation of the queues, which is ordinary: the activation loop has come round twice."""
LAST_STOP_VERIFICATION_DELAY = timedelta(minutes=20)
"""After a stop: EWMS repeats its own calls for so long when its queue service is unwell. Source: EWMS contract 12."""
STOPPED_WORKERS_CHECK = timedelta(minutes=10)
"""Between two looks whether workers of a stopped workflow still run: only EWMS operators can end them, which takes its time."""

# Its workers
WORKFORCE_RETRY = timedelta(seconds=5)
"""After a refresh of worker counts that failed."""
FAST_REFRESH_PERIOD = timedelta(minutes=5)
"""From the start of a workflow, while its workers are counted more often: somebody waits for the first one."""
VIEWER_HINT_TTL = timedelta(seconds=90)
"""How long one view of a scan counts; whoever goes on viewing it says so again."""
REFRESH_LEASE = timedelta(seconds=60)
TASKFORCES_FRESH = timedelta(seconds=60)
"""Taskforces that were fetched less long ago are not fetched again."""
TASKFORCES_TIMEOUT_S = 5.0
"""The caller gets what was fetched before rather than wait longer."""

# Requests for more workers
WORKER_REQUEST_LEASE = timedelta(seconds=60)
LOST_WORKERS_CHECK = timedelta(seconds=10)
"""Between two looks for workers that a request without a response may have added: EWMS may execute it late."""
UNCLAIMED_WORKERS_TTL = timedelta(minutes=10)
"""How long workers whose request got no response count as the response to the next request of the same shape."""
ADD_WORKERS_TIMEOUT_S = 45.0
"""Of one request. Less than its lease."""
REPLY_TIME_S = 1.0
"""Of the caller's time, kept for replying that EWMS did not respond."""
SAME_REQUEST_RETRY_S = 0.5
"""While another replica processes the same request."""

# EWMS unavailable
CIRCUIT_FIRST_PAUSE_S = 2.0
"""The first pause after EWMS became unavailable; it doubles up to the setting, by the database's clock, for all replicas together."""
CIRCUIT_MIN_PAUSE_S = 0.2
PROBE_LEASE = timedelta(seconds=45)
RECOVERY = timedelta(seconds=30)
"""After an outage, while calls are let through one by one."""

# What a fault asks for at least
UNREACHABLE_RETRY_S = 2.0
"""EWMS, its token issuer or the object store cannot be reached, does not respond, or EWMS responds with HTTP 5xx."""
REJECTED_FOR_NOW_RETRY_S = 10.0
"""A conflict, a lock, a limit, a status that the contract does not name."""
INVALID_RESPONSE_RETRY_S = 10.0
ACCESS_DENIED_RETRY_S = 30.0
"""EWMS, the object store or Kubernetes denies permission: an operator has to change something first."""
MISCONFIGURED_LOGIN_RETRY_S = 60.0
"""After the token issuer refused the client: its operators have to change something first."""
SERVER_FAULT_RETRY_S = 5.0
"""The token issuer or the object store has a fault of its own."""
MISSING_SECRET_RETRY_S = 5.0
"""The dispatcher has not created the scan's Secret yet."""
MAX_RETRY_AFTER_S = 600.0
"""Longer pauses that EWMS asks for are cut to this."""


def refused_workflow_pause_s(tries: int, *, after_s: float) -> float:
    """Return the pause before EWMS is asked again for a workflow it refused for now. after_s: what EWMS asks for at least."""
    return max(after_s, REFUSED_WORKFLOW.pause_s(tries))


def queue_poll_s(tries: int, *, longest_s: float) -> float:
    """Return the pause before the next look at queues that are not active yet. tries: looks so far."""
    return min(longest_s, FIRST_QUEUE_POLL_S * 1.5 ** min(tries, 20))


def stop_confirmation(tries: int) -> timedelta:
    """Return the pause before the next look whether EWMS shows a workflow stopped. tries: requests to stop it so far."""
    return min(STOP_CONFIRMATION * tries, MAX_STOP_CONFIRMATION)


def add_workers_timeout_s(left_s: float) -> float:
    """Return how long one request for more workers may take. left_s: until the caller's deadline."""
    return min(ADD_WORKERS_TIMEOUT_S, left_s - REPLY_TIME_S)
