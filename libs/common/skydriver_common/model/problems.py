"""Why a scan waits or fails, in words for those who asked for it: what `status` shows beside the state.

Pure and without a clock: the answer is stored with the scan's other views and comes out the same in a rebuild. A cause that
becomes known by a new event is a new line here. The codes are for programs and never renamed; the texts are free.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from skydriver_common.model.problem_codes import ProblemCode
from skydriver_common.model.progress_report import has_reconstructed
from skydriver_common.model.scan import Ewms, Launch, Scan
from skydriver_common.model.scanner_variables import left_out
from skydriver_common.model.stages import LaunchState, ScannerStage
from skydriver_common.redaction import redact_text

Problem = dict[str, str]
"""``{"code", "text"}``: text is one line of whole sentences, without secrets and without an end mark."""

ACTIVATION_PERIOD_S = 15.0
"""EWMS activates the queues of one workflow per this many seconds, for all its users together (EWMS contract 8)."""
_MAX_QUOTED = 200
_MAX_REFUSAL = 400
"""What a cluster says names the object and the rule first and the reason last."""


def problems_of(scan: Scan) -> list[Problem]:
    """What keeps this scan from its result, the most final first; empty when it goes on well, has its result or is deleted.

    One thing is told even then: workers that go on costing money.
    """
    found = [*_came_back(scan.ewms)]
    if not scan.is_deleted and not scan.has_final_result:
        found += [*_launch(scan), *_environment(scan), *_scanner(scan), *_reports(scan), *_workflow(scan)]
    if scan.has_workflow and scan.may_run and not scan.ewms.deactivated:
        found += _workers(scan)
    return [{"code": code, "text": redact_text(text)} for code, text in found]


def ewms_away(since: float) -> Problem:
    """What is added for every scan while EWMS does not respond. since: Unix seconds."""
    text = (
        f"EWMS has not responded since {_moment(since)}. Worker counts may be out of date; changes are queued until it responds"
    )
    return {"code": ProblemCode.EWMS_AWAY, "text": text}


HOLDS = {
    "closed": "The scan waits: launches below priority 100 are switched off (the maximum number of running scans is 0)",
    "cap": "The scan waits until another one has ended: as many scans run as may run at the same time",
    "pause": "The scan waits: launches below priority 100 are paused for a moment, since one was refused",
    "no-room": "The scan waits for capacity: the Kubernetes cluster refused a launch for lack of quota",
}
"""What keeps scans below priority 100 from being launched, by the throttle's name for it."""


def launches_held(reason: str) -> Problem:
    """What is added for a scan that the throttle keeps waiting. reason: a key of ``HOLDS``."""
    return {"code": ProblemCode.LAUNCHES_HELD, "text": HOLDS[reason]}


def bridge_away(since: float) -> Problem:
    """What is added for every scan while the EWMS bridge does not work. since: Unix seconds."""
    text = f"The EWMS bridge has not worked since {_moment(since)}: nothing is asked of EWMS, and worker counts are out of date"
    return {"code": ProblemCode.EWMS_BRIDGE_AWAY, "text": text}


def workers_unknown(since: float) -> Problem:
    """What is added for a scan whose workers nobody has asked for in a while. since: Unix seconds."""
    text = f"Worker counts have not been updated since {_moment(since)}: the EWMS bridge is not running or not healthy"
    return {"code": ProblemCode.WORKERS_UNKNOWN, "text": text}


def _came_back(ewms: Ewms) -> Iterator[tuple[str, str]]:
    if ewms.n_came_back:
        running = f"{_count(ewms.n_came_back, 'worker')} {'is' if ewms.n_came_back == 1 else 'are'} still running"
        yield (
            ProblemCode.WORKERS_CAME_BACK,
            f"{running} although their workflow was stopped. Only EWMS operators can end them",
        )


def _launch(scan: Scan) -> Iterator[tuple[str, str]]:
    launch = scan.launch
    match launch.state:
        case LaunchState.ABANDONED:
            yield (
                ProblemCode.LAUNCH_ABANDONED,
                f"The scanner server could not be started; no further attempts will be made: {_line(launch.reason, _MAX_REFUSAL)}",
            )
        case LaunchState.FAILED:
            yield (
                ProblemCode.SCANNER_FAILED,
                f"The scanner server ended without a final result: {_line(launch.reason, _MAX_REFUSAL)}{_last_words(launch)}",
            )
        case LaunchState.QUEUED if launch.is_deferred:
            yield (
                ProblemCode.LAUNCH_DEFERRED,
                f"The scan is waiting to be launched; this does not count as an attempt: {_line(launch.reason, _MAX_REFUSAL)}",
            )
        case LaunchState.QUEUED if launch.reason:
            yield (
                ProblemCode.LAUNCH_FAILED,
                f"The scanner server could not be started ({_count(launch.attempts, 'attempt')}); the dispatcher will retry: "
                f"{_line(launch.reason, _MAX_REFUSAL)}",
            )
        case LaunchState.LAUNCHED if launch.restarts:
            yield (
                ProblemCode.SCANNER_RESTARTED,
                f"The scanner server was restarted ({_count(launch.restarts, 'time')} since its last progress): "
                f"{_line(launch.reason, _MAX_REFUSAL)}",
            )


def _last_words(launch: Launch) -> str:
    """What the scanner server wrote last, which is why it refused its parameters or failed."""
    return f"; last line of its log: {_line(launch.log_tail, _MAX_REFUSAL)}" if launch.log_tail.strip() else ""


def _environment(scan: Scan) -> Iterator[tuple[str, str]]:
    """What an older request wants of the scanner server's environment and does not get."""
    if names := left_out(scan.request.get("scanner_server_env_from_user") or ()):
        yield (
            ProblemCode.VARIABLES_LEFT_OUT,
            f"The scanner server does not get these variables of the request, since their names are reserved: {', '.join(names)}",
        )


def _scanner(scan: Scan) -> Iterator[tuple[str, str]]:
    """What holds the scanner server up on its way to running."""
    launch = scan.launch
    if launch.state == LaunchState.LAUNCHED and launch.trouble:
        yield launch.trouble["code"], f"The scanner server is stuck: {_line(launch.trouble['text'], _MAX_REFUSAL)}"
    elif launch.state == LaunchState.LAUNCHED and (launch.stage == ScannerStage.PENDING or not launch.has_node):
        then = "" if scan.has_workflow else "; its workers are requested when it has one"
        yield ProblemCode.SCANNER_PENDING, f"The scanner server is waiting for a Kubernetes node with free capacity{then}"
    elif launch.state == LaunchState.LAUNCHED and launch.stage == ScannerStage.SCHEDULED:
        yield (
            ProblemCode.SCANNER_STARTING,
            "The scanner server is assigned to a node and starts when its image is pulled and its queues are ready",
        )


def _reports(scan: Scan) -> Iterator[tuple[str, str]]:
    """What the scanner server itself said, or did not say."""
    scanner = scan.scanner
    if scanner.failure:
        yield ProblemCode.SCANNER_REPORTED_FAILURE, f"The scanner server reported a failure: {_line(scanner.failure)}"
    if scan.launch.state == LaunchState.LAUNCHED and scanner.silent_since is not None:
        yield (
            ProblemCode.SCANNER_SILENT,
            f"The scanner server has not reported since {_moment(scanner.silent_since)}, although its job is still running",
        )
    if "metadata-is-set" in scanner.refusals:
        yield (
            ProblemCode.REPORTS_REFUSED,
            "Reports were rejected: their metadata differs from what the scanner server reported first",
        )


def _workflow(scan: Scan) -> Iterator[tuple[str, str]]:
    ewms = scan.ewms
    if ewms.refused:
        yield ProblemCode.WORKFLOW_REFUSED, f"The scan gets no workers: {_line(ewms.refused)}"
    elif ewms.deactivated:
        yield (
            ProblemCode.WORKFLOW_STOPPED,
            f"The scan's EWMS workflow was stopped ({ewms.deactivated}) before the final result arrived. Rescan to continue",
        )
    elif scan.launch.has_node and not scan.has_workflow and ewms.refused_so_far:
        yield (
            ProblemCode.WAITING_FOR_WORKFLOW,
            f"EWMS does not accept the scan's workflow for now; the EWMS bridge retries until {_moment(ewms.asked_until)}: "
            f"{_line(ewms.refused_so_far, _MAX_REFUSAL)}",
        )
    elif scan.launch.has_node and not scan.has_workflow:
        yield (
            ProblemCode.WAITING_FOR_WORKFLOW,
            "Waiting for EWMS to create the scan's workflow",
        )


def _workers(scan: Scan) -> Iterator[tuple[str, str]]:
    ewms = scan.ewms
    if not ewms.queues and scan.launch.state == LaunchState.LAUNCHED:
        yield ProblemCode.WAITING_FOR_QUEUES, _waiting_for_queues(ewms)
    if ewms.is_startup_file_missing:
        yield (
            ProblemCode.STARTUP_FILE_MISSING,
            "The scanner server has not uploaded startup.json, which every worker needs: workers cannot start until it appears",
        )
    if ewms.are_tokens_ending and ewms.tokens_end_at is not None:
        yield (
            ProblemCode.QUEUE_TOKENS_ENDING,
            f"The scan's queue passwords expire at {_moment(ewms.tokens_end_at)} and EWMS cannot renew them. Workers that start "
            "later cannot connect",
        )
    common = _most_common_error(ewms)
    for problem in ewms.problems:
        yield problem["code"], f"{_sentence(problem['text'])}{common}"
    if ewms.queues and not ewms.problems and not ewms.n_running:
        yield ProblemCode.WAITING_FOR_WORKERS, _waiting_for_workers(scan)


def _waiting_for_queues(ewms: Ewms) -> str:
    waiting = "Waiting for EWMS to activate the scan's queues"
    match ewms.place_in_line:
        case None:
            return waiting
        case 0:
            return f"{waiting}; next in line"
        case ahead:
            minutes = max(1, round(ahead * ACTIVATION_PERIOD_S / 60))
            return f"{waiting}: {_count(ahead, 'workflow')} ahead, about {minutes} min"


def _waiting_for_workers(scan: Scan) -> str:
    ewms, n_done = scan.ewms, _pixels_done(scan)
    has_begun = has_reconstructed(scan.progress)
    idle = sum(ewms.statuses.get("IDLE", {}).values())
    if not (n_done or has_begun or ewms.idle_since is not None):
        begun = "No worker is running yet"
    else:
        since = [] if ewms.idle_since is None else [f"since {_moment(ewms.idle_since)}"]
        done = [] if n_done is None else [f"{_count(n_done, 'pixel')} {'is' if n_done == 1 else 'are'} done"]
        begun = "No worker is running now" + (f" ({'; '.join(since + done)})" if since or done else "")
    if idle:
        return f"{begun}: {idle} {'is' if idle == 1 else 'are'} waiting for a free slot in their pool"
    return f"{begun}: EWMS has not reported any"


def _pixels_done(scan: Scan) -> int | None:
    """As the scanner tells it in its tallies, which are free-form; None when it does not."""
    found: Any = scan.progress
    for key in ("tallies", "overall", "pixels", "done"):
        found = found.get(key) if isinstance(found, dict) else None
    return int(found) if isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found < 2**53 else None


def _most_common_error(ewms: Ewms) -> str:
    if not ewms.top_errors:
        return ""
    text, n = max(ewms.top_errors.items(), key=lambda item: (item[1], item[0]))
    return f"; most common error ({_count(n, 'time')}): {_line(text)}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _line(text: str, most: int = _MAX_QUOTED) -> str:
    """Of a text of any shape the last line, where a traceback says what happened, shortened."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    last = " ".join(lines[-1].split()) if lines else "no reason given"
    return last if len(last) <= most else last[: most - 1] + "…"


def _count(n: int, unit: str) -> str:
    return f"{n} {unit}" if n == 1 else f"{n} {unit}s"


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
