"""How long the bridge waits before it tries or checks again: every such duration, with its reason. Adapters only classify faults.

What an operator may change is a setting instead: how long a refusal may last, how long a lost request may still be executed, and the
longest pause between probes. Due work that fails for other reasons follows ``skydriver_common.runtime.due_work.RETRY``.
"""

from datetime import timedelta

from skydriver_common.backoff import Backoff

REFUSED_WORKFLOW = Backoff(first_s=2.0, cap_s=60.0)
"""Between two requests for a workflow that EWMS refuses for now: most causes pass, such as an image that is not uploaded yet."""
LOST_WORKFLOW_CHECK = timedelta(seconds=10)
"""Between two looks for a workflow that a request without a response may have made: EWMS may execute it late."""
LOST_WORKERS_CHECK = timedelta(seconds=10)
"""The same for workers."""
STOP_CONFIRMATION = timedelta(seconds=2)
"""After a request to stop a workflow, until EWMS may show it stopped; longer with each look."""
STOPPED_WORKERS_CHECK = timedelta(minutes=10)
"""Between two looks whether workers of a stopped workflow still run: only EWMS operators can end them, which takes its time."""
LAST_STOPPED_WORKERS_CHECK = timedelta(minutes=20)
"""After a stop: EWMS repeats its own calls for so long when its queue service is unwell. Source: EWMS contract 12."""
STARTUP_FILE_CHECK = timedelta(minutes=5)
"""Between two looks for a startup file that is missing: workers cannot start until it appears, so it is looked for until then."""
WORKFORCE_RETRY = timedelta(seconds=5)
"""After a refresh of worker counts that failed."""
CIRCUIT_FIRST_PAUSE_S = 2.0
"""The first pause after EWMS became unavailable; it doubles up to the setting, by the database's clock, for all replicas together."""
MISCONFIGURED_LOGIN_RETRY_S = 60.0
"""After the token issuer refused the client: its operators have to change something first."""
