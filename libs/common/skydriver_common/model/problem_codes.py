"""Registry of problem codes: every code that can stand in a scan's ``problems``, with its meaning and who can act on it.

Programs compare codes, and events store them, so a code is never renamed. To add one: a member here, an entry in ``MEANINGS``, and the
rule that reports it (``model/problems.py``, ``pod_status.py`` of the dispatcher, or ``decide/workforce_problems.py`` of the EWMS bridge).
"""

from dataclasses import dataclass
from enum import StrEnum


class ProblemCode(StrEnum):
    """What is wrong with a scan, as programs read it. Each name is its code in capitals."""

    # the launch and the scanner server (dispatcher)
    LAUNCH_ABANDONED = "launch-abandoned"
    LAUNCH_DEFERRED = "launch-deferred"
    LAUNCH_FAILED = "launch-failed"
    SCANNER_FAILED = "scanner-failed"
    SCANNER_RESTARTED = "scanner-restarted"
    SCANNER_PENDING = "scanner-pending"
    SCANNER_STARTING = "scanner-starting"
    VARIABLES_LEFT_OUT = "variables-left-out"
    # the scanner server's pod on Kubernetes (dispatcher)
    SCANNER_POD_REFUSED = "scanner-pod-refused"
    SCANNER_POD_WITHOUT_QUOTA = "scanner-pod-without-quota"
    SCANNER_POD_DELAYED = "scanner-pod-delayed"
    SCANNER_UNSCHEDULABLE = "scanner-unschedulable"
    SCANNER_IMAGE_PULL_FAILED = "scanner-image-pull-failed"
    SCANNER_CONTAINER_REFUSED = "scanner-container-refused"
    STARTUP_UPLOAD_FAILING = "startup-upload-failing"
    # the scanner server's reports (progress)
    SCANNER_REPORTED_FAILURE = "scanner-reported-failure"
    SCANNER_SILENT = "scanner-silent"
    REPORTS_REFUSED = "reports-refused"
    # the workflow at EWMS (EWMS bridge)
    WORKFLOW_REFUSED = "workflow-refused"
    WORKFLOW_STOPPED = "workflow-stopped"
    WAITING_FOR_WORKFLOW = "waiting-for-workflow"
    WAITING_FOR_QUEUES = "waiting-for-queues"
    STARTUP_FILE_MISSING = "startup-file-missing"
    QUEUE_TOKENS_ENDING = "queue-tokens-ending"
    # the workers (EWMS bridge)
    WAITING_FOR_WORKERS = "waiting-for-workers"
    SUBMISSION_FAILED = "submission-failed"
    ALL_WORKERS_HELD = "all-workers-held"
    ALL_WORKERS_ENDED = "all-workers-ended"
    SAME_ERROR_EVERYWHERE = "same-error-everywhere"
    WORKFORCE_UNREADABLE = "workforce-unreadable"
    WORKERS_CAME_BACK = "workers-came-back"
    # added when the scan's status is read (gateway)
    LAUNCHES_HELD = "launches-held"
    EWMS_BRIDGE_AWAY = "ewms-bridge-away"
    EWMS_AWAY = "ewms-away"
    WORKERS_UNKNOWN = "workers-unknown"


class Responsible(StrEnum):
    """Who can end a problem."""

    NOBODY = "nobody: it passes by itself"
    USER = "whoever requested the scan"
    OPERATOR = "the operators of SkyDriver"
    KUBERNETES_OPERATOR = "the operators of the Kubernetes cluster"
    EWMS_OPERATOR = "the operators of EWMS"


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code means, in one sentence, and who acts on it."""

    text: str
    responsible: Responsible


MEANINGS: dict[ProblemCode, Meaning] = {
    ProblemCode.LAUNCH_ABANDONED: Meaning(
        "The scanner server could not be started, and the dispatcher makes no further attempts.", Responsible.OPERATOR
    ),
    ProblemCode.LAUNCH_DEFERRED: Meaning(
        "The scan waits for capacity or for the launcher to respond; no launch attempt is used up.", Responsible.NOBODY
    ),
    ProblemCode.LAUNCH_FAILED: Meaning(
        "The last launch attempt failed; the dispatcher tries again until the attempts are used up.", Responsible.OPERATOR
    ),
    ProblemCode.SCANNER_FAILED: Meaning(
        "The scanner server ended without a final result and is not started again.", Responsible.USER
    ),
    ProblemCode.SCANNER_RESTARTED: Meaning(
        "The scanner server was taken away from outside and was started again.", Responsible.NOBODY
    ),
    ProblemCode.SCANNER_PENDING: Meaning(
        "The scanner server waits until Kubernetes assigns it to a node.", Responsible.KUBERNETES_OPERATOR
    ),
    ProblemCode.SCANNER_STARTING: Meaning(
        "The scanner server has a node; its container starts when its image and its queues are available.", Responsible.NOBODY
    ),
    ProblemCode.VARIABLES_LEFT_OUT: Meaning(
        "The request sets environment variables that are reserved; the scanner server does not get them.", Responsible.USER
    ),
    ProblemCode.SCANNER_POD_REFUSED: Meaning(
        "Kubernetes rejects the scanner server's pod; the scan fails unless that changes in time.",
        Responsible.KUBERNETES_OPERATOR,
    ),
    ProblemCode.SCANNER_POD_WITHOUT_QUOTA: Meaning(
        "The namespace's quota leaves no room for the scanner server's pod.", Responsible.KUBERNETES_OPERATOR
    ),
    ProblemCode.SCANNER_POD_DELAYED: Meaning(
        "Kubernetes cannot create the scanner server's pod at the moment and keeps trying.", Responsible.KUBERNETES_OPERATOR
    ),
    ProblemCode.SCANNER_UNSCHEDULABLE: Meaning(
        "No node of the Kubernetes cluster has room for the scanner server.", Responsible.KUBERNETES_OPERATOR
    ),
    ProblemCode.SCANNER_IMAGE_PULL_FAILED: Meaning(
        "The scanner server's image cannot be pulled; the scan fails unless that changes in time.", Responsible.OPERATOR
    ),
    ProblemCode.SCANNER_CONTAINER_REFUSED: Meaning(
        "A container of the scanner server's pod cannot be created; the scan fails unless that changes in time.",
        Responsible.KUBERNETES_OPERATOR,
    ),
    ProblemCode.STARTUP_UPLOAD_FAILING: Meaning(
        "The upload of startup.json, which every worker needs to begin, keeps failing.", Responsible.OPERATOR
    ),
    ProblemCode.SCANNER_REPORTED_FAILURE: Meaning("The scanner server reported that it failed.", Responsible.USER),
    ProblemCode.SCANNER_SILENT: Meaning(
        "The scanner server has not reported for too long, although its job is still running.", Responsible.OPERATOR
    ),
    ProblemCode.REPORTS_REFUSED: Meaning(
        "Reports of the scanner server were rejected: their metadata differs from what it reported first.", Responsible.USER
    ),
    ProblemCode.WORKFLOW_REFUSED: Meaning(
        "EWMS does not make a workflow for the scan, so the scan gets no workers.", Responsible.OPERATOR
    ),
    ProblemCode.WORKFLOW_STOPPED: Meaning(
        "The scan's workflow was stopped at EWMS before the scan had its final result.", Responsible.EWMS_OPERATOR
    ),
    ProblemCode.WAITING_FOR_WORKFLOW: Meaning(
        "The scanner server is launched and waits for EWMS to accept the scan's workflow.", Responsible.EWMS_OPERATOR
    ),
    ProblemCode.WAITING_FOR_QUEUES: Meaning(
        "The scan waits until EWMS activates the queues of its workflow.", Responsible.NOBODY
    ),
    ProblemCode.STARTUP_FILE_MISSING: Meaning(
        "The scanner server has not uploaded startup.json; workers cannot start until it appears.", Responsible.OPERATOR
    ),
    ProblemCode.QUEUE_TOKENS_ENDING: Meaning(
        "The tokens of the scan's queues expire soon and EWMS cannot renew them: workers that start later cannot connect.",
        Responsible.EWMS_OPERATOR,
    ),
    ProblemCode.WAITING_FOR_WORKERS: Meaning("No worker of the scan is running.", Responsible.NOBODY),
    ProblemCode.SUBMISSION_FAILED: Meaning(
        "EWMS could not submit some of the scan's workers and has stopped trying.", Responsible.EWMS_OPERATOR
    ),
    ProblemCode.ALL_WORKERS_HELD: Meaning("All workers are held by their pool.", Responsible.EWMS_OPERATOR),
    ProblemCode.ALL_WORKERS_ENDED: Meaning(
        "All workers have ended before the scan had its final result; more can be added to the scan.", Responsible.USER
    ),
    ProblemCode.SAME_ERROR_EVERYWHERE: Meaning(
        "All workers that have started report the same error, so more workers would not help.", Responsible.USER
    ),
    ProblemCode.WORKFORCE_UNREADABLE: Meaning(
        "EWMS reports some workers in a form that cannot be read; they are missing from the counts.", Responsible.OPERATOR
    ),
    ProblemCode.WORKERS_CAME_BACK: Meaning(
        "Workers are still running although their workflow was stopped.", Responsible.EWMS_OPERATOR
    ),
    ProblemCode.LAUNCHES_HELD: Meaning(
        "Launches of scans below priority 100 are held back: switched off, capped, paused, or for lack of quota.",
        Responsible.OPERATOR,
    ),
    ProblemCode.EWMS_BRIDGE_AWAY: Meaning(
        "The EWMS bridge does not work: nothing is asked of EWMS, and worker counts are out of date.", Responsible.OPERATOR
    ),
    ProblemCode.EWMS_AWAY: Meaning(
        "EWMS has not responded for a while: worker counts may be out of date, and changes are queued.",
        Responsible.EWMS_OPERATOR,
    ),
    ProblemCode.WORKERS_UNKNOWN: Meaning(
        "Worker counts have not been updated for a while: the EWMS bridge is not running or not healthy.", Responsible.OPERATOR
    ),
}
"""Every code's meaning. Documented from here."""
