"""Workflows, task directives, taskforces, queue profiles: how requests change them. Source: EWMS contract 3, 5, 7, 8, 9.

Functions over one transaction; whatever raises leaves nothing behind, except the reserved queues that EWMS leaves too.
"""

import re
import secrets
import time
from typing import Any

from skydriver_sandbox.ewms.broker import Access
from skydriver_sandbox.ewms.errors import RestError
from skydriver_sandbox.ewms.store import Tx

CLUSTERS = {
    "osg": "sandbox-ap-osg",
    "OSG": "sandbox-ap-osg",
    "sub-2": "sandbox-ap-osg",
    "test-alpha": "sandbox-ap-alpha",
    "test-beta": "sandbox-ap-beta",
}
_LATEST_PILOT = "1.4.0"
_PILOT_IMAGES = frozenset({"1.0.0", "1.1.0", "1.2.0", "1.3.0", _LATEST_PILOT})
_STOPPED_PHASES = frozenset({"pending-stopper", "condor-rm", "condor-complete"})
_LOWEST_PRIORITY = 100
_DEFAULT_PRIORITY = 50
_ADDED_PRIORITY = 100


def change_phase(
    taskforce: dict[str, Any],
    phase: str,
    entity: str,
    context: str,
    *,
    was_successful: bool = True,
    source_event_time: float | None = None,
) -> None:
    """Log a change of phase in the document; an unsuccessful one leaves the phase as it is."""
    taskforce["phase_change_log"].append(
        {
            "target_phase": phase,
            "timestamp": time.time(),
            "was_successful": was_successful,
            "source_event_time": source_event_time,
            "source_entity": entity,
            "context": context,
        }
    )
    if was_successful:
        taskforce["phase"] = phase


def new_workflow_id() -> str:
    return f"WF-{int(time.time()):x}-{secrets.token_hex(4)}"


def reserve_queues(tx: Tx, workflow_id: str, body: dict[str, Any]) -> None:
    """One profile per alias that a task names. Raises RestError 500 when no task names any: MQS refuses that."""
    aliases = {
        alias: alias in body["public_queue_aliases"]
        for task in body["tasks"]
        for alias in (*task["input_queue_aliases"], *task["output_queue_aliases"])
    }
    if not aliases:
        raise RestError(500, "Internal Server Error")
    for alias, is_public in aliases.items():
        tx.put_profile(
            {
                "mqid": f"a{secrets.token_hex(10)}",
                "workflow_id": workflow_id,
                "timestamp": time.time(),
                "alias": alias,
                "is_public": is_public,
                "is_activated": False,
                "auth_token": None,
                "broker_type": None,
                "broker_address": None,
            }
        )


def create(tx: Tx, workflow_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """Workflow, directives and taskforces, all or none. Raises RestError 400 (cluster, pilot tag), 500 (no n_workers)."""
    workflow: dict[str, Any] = {
        "workflow_id": workflow_id,
        "timestamp": time.time(),
        "priority": max(int(body.get("priority", _DEFAULT_PRIORITY)), _LOWEST_PRIORITY),
        "deactivated": None,
        "deactivated_ts": None,
    }
    profiles = sorted(tx.profiles(workflow_id), key=lambda profile: str(profile["mqid"]))
    directives, taskforces = [], []
    for number, task in enumerate(body["tasks"]):
        directive = _directive(workflow_id, task, profiles)
        directives.append(directive)
        for location in task["cluster_locations"]:
            if location not in CLUSTERS:
                raise RestError(
                    400, f"'tasks.{number}.cluster_locations': unknown cluster: condor location not found: {location}"
                )
        if "n_workers" not in task:
            raise RestError(500, "Internal Server Error")
        pilot_config = _pilot_config(task.get("pilot_config"), number)
        taskforces += [
            _taskforce(
                directive,
                location,
                task["n_workers"],
                workflow["priority"],
                pilot_config,
                task["worker_config"],
                "created with the workflow",
            )
            for location in task["cluster_locations"]
        ]
    tx.add_workflow(workflow)
    for directive in directives:
        tx.add_directive(directive)
    for taskforce in taskforces:
        tx.add_taskforce(taskforce)
    return {"workflow": workflow, "task_directives": directives, "taskforces": taskforces}


def _directive(workflow_id: str, task: dict[str, Any], profiles: list[dict[str, Any]]) -> dict[str, Any]:
    def queues(aliases: list[str]) -> list[str]:
        # In the order of the profiles, not of the aliases: so does EWMS.
        return [profile["mqid"] for profile in profiles if profile["alias"] in aliases]

    return {
        "task_id": f"TK-{workflow_id.removeprefix('WF-')}-{secrets.token_hex(4)}",
        "workflow_id": workflow_id,
        "timestamp": time.time(),
        "cluster_locations": task["cluster_locations"],
        "task_image": task["task_image"],
        "task_args": task["task_args"],
        "task_env": task.get("task_env", {}),
        "init_image": task.get("init_image", ""),
        "init_args": task.get("init_args", ""),
        "init_env": task.get("init_env", {}),
        "input_queues": queues(task["input_queue_aliases"]),
        "output_queues": queues(task["output_queue_aliases"]),
    }


def _pilot_config(given: dict[str, Any] | None, number: int) -> dict[str, Any]:
    config = given or {"tag": "latest", "environment": {}, "input_files": []}
    tag = config["tag"]
    # The real pattern lets any text with "latest" pass; what counts is whether an image of that name exists.
    resolved = _LATEST_PILOT if tag == "latest" else tag
    if resolved not in _PILOT_IMAGES:
        reason = f"no such pilot image: Image tag not found: {resolved} (it may not have finished uploading)"
        raise RestError(400, f"'tasks.{number}.pilot_config.tag': {reason}")
    environment = {name: _one_line(value) for name, value in config["environment"].items()}
    return {"tag": resolved, "image_source": "cvmfs", "environment": environment, "input_files": config["input_files"]}


def _one_line(value: Any) -> Any:
    return re.sub(r"[\r\n]+", " ", value) if isinstance(value, str) else value


def _taskforce(
    directive: dict[str, Any],
    location: str,
    n_workers: float | None,
    priority: int,
    pilot_config: dict[str, Any],
    worker_config: dict[str, Any],
    context: str,
) -> dict[str, Any]:
    taskforce: dict[str, Any] = {
        "taskforce_uuid": f"TF-{directive['task_id'].removeprefix('TK-')}-{secrets.token_hex(4)}",
        "task_id": directive["task_id"],
        "workflow_id": directive["workflow_id"],
        "timestamp": time.time(),
        "priority": priority,
        "collector": None,
        "schedd": CLUSTERS[location],
        "n_workers": None if n_workers is None else int(n_workers),
        "pilot_config": pilot_config,
        "worker_config": worker_config,
        "cluster_id": None,
        "submit_dict": {},
        "job_event_log_fpath": "",
        "phase": "pre-mq-activation",
        "phase_change_log": [],
        "compound_statuses": {},
        "top_task_errors": {},
    }
    change_phase(taskforce, "pre-mq-activation", "User", context)
    return taskforce


def stop(tx: Tx, workflow_id: str, label: str) -> dict[str, Any]:
    """Mark a workflow ABORTED or FINISHED and tell its taskforces to stop. Raises RestError 404: unknown, or stopped before."""
    workflow = tx.workflow(workflow_id)
    if workflow is None or workflow["deactivated"] is not None:
        raise RestError(404, f"no active workflow found with id: {workflow_id}")
    tx.save_workflow({**workflow, "deactivated": label, "deactivated_ts": time.time()})
    moved = 0
    for taskforce in tx.taskforces(workflow_id=workflow_id):
        is_late = taskforce["phase"] in _STOPPED_PHASES
        change_phase(taskforce, "pending-stopper", "USER", f"workflow {label.lower()}", was_successful=not is_late)
        tx.save_taskforce(taskforce)
        moved += not is_late
    return {"workflow_id": workflow_id, "n_taskforces": moved}


def add_workers(tx: Tx, task_id: str, body: dict[str, Any]) -> dict[str, Any]:
    """A new taskforce like an older one of that task. Raises RestError 500 (unknown task), 422 (deactivated), 400 (cluster)."""
    directive = tx.directive(task_id)
    if directive is None:
        raise RestError(500, "no task found, which EWMS does not handle")
    workflow = tx.workflow(directive["workflow_id"])
    if workflow is None or workflow["deactivated"] is not None:
        raise RestError(422, "the workflow is deactivated")
    if body["cluster_location"] not in CLUSTERS:
        raise RestError(400, f"'cluster_location': unknown cluster: condor location not found: {body['cluster_location']}")
    siblings = [entry for entry in tx.taskforces(workflow_id=directive["workflow_id"]) if entry["task_id"] == task_id]
    oldest = min(siblings, key=lambda entry: float(entry["timestamp"]))
    taskforce = _taskforce(
        directive,
        body["cluster_location"],
        body["n_workers"],
        oldest["priority"] + _ADDED_PRIORITY,
        oldest["pilot_config"],
        oldest["worker_config"],
        "workers added",
    )
    tx.add_taskforce(taskforce)
    return taskforce


def next_to_activate(tx: Tx, *, also_stopped: bool = False) -> str | None:
    """The workflow to activate next: highest priority, then oldest, with a taskforce that waits for activation.

    also_stopped: one that was stopped before its turn counts, as if its turn had begun just before the stop.
    """
    rows = tx.execute(
        "SELECT DISTINCT t.workflow_id, t.phase FROM taskforces t JOIN workflows w USING (workflow_id)"
        " WHERE t.phase IN ('pre-mq-activation', ?) ORDER BY json_extract(w.doc, '$.priority') DESC, w.seq",
        "pending-stopper" if also_stopped else "pre-mq-activation",
    ).fetchall()
    for row in rows:
        workflow_id = str(row["workflow_id"])
        if row["phase"] == "pre-mq-activation" or not all(profile["is_activated"] for profile in tx.profiles(workflow_id)):
            return workflow_id
    return None


def activate(tx: Tx, workflow_id: str, access: Access | None, *, whatever_phase: bool) -> None:
    """Hand out the queues (access None: they are out already) and let the taskforces be launched.

    whatever_phase: move all taskforces, as EWMS was seen to do when a stop comes in between.
    """
    if access is not None:
        granted = {"auth_token": access.auth_token, "broker_type": "rabbitmq", "broker_address": access.broker_address}
        for profile in tx.profiles(workflow_id):
            tx.put_profile({**profile, "is_activated": True, **granted})
    for taskforce in tx.taskforces(workflow_id=workflow_id):
        if whatever_phase or taskforce["phase"] == "pre-mq-activation":
            change_phase(taskforce, "pre-launch", "Workflow MQ Activator", "queues activated")
            tx.save_taskforce(taskforce)
