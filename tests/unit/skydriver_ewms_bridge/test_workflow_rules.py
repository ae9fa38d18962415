"""What is asked of EWMS, and which of several answers is kept."""

import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.decide.workflow import (
    added_taskforce,
    choose_workflow,
    merged_clusters,
    startup_object_key,
    task_for_cluster,
    workflow_spec,
)
from skydriver_ewms_bridge.ewms_types import TaskDirective, Taskforce, Workflow, WorkflowOrder

SCAN_ID = ScanId("18e0f1a2b3cx4f5e6d7c8b9a01234567")
URL = "https://s3.example/bucket/key?X-Amz-Expires=604800&X-Amz-Signature=abc%2F"


def an_order(**changes: object) -> WorkflowOrder:
    fields: dict[str, object] = {
        "scan_id": SCAN_ID,
        "instance": "prod",
        "worker_image": "/cvmfs/images/skymap_scanner:4.1.2",
        "clusters": (("osg", 1500), ("local", 5)),
        "max_pixel_reco_time_s": 1800,
        "priority": 0,
        "worker_memory_bytes": 8_000_000_000,
        "worker_disk_bytes": 1_000_000_000,
        "startup_url": URL,
        "queue_idle_s": 3600,
    }
    return WorkflowOrder(**{**fields, **changes})  # type: ignore[arg-type]  # builder: fields are checked by the class


def tasks_of(order: WorkflowOrder) -> list[dict[str, object]]:
    tasks = workflow_spec(order)["tasks"]
    assert isinstance(tasks, list)
    return [task for task in tasks if isinstance(task, dict)]  # type: ignore[misc]  # Json narrows to its own dict


def test_the_request_has_every_field_of_the_contract_and_no_other() -> None:
    spec = workflow_spec(an_order(clusters=(("osg", 1500),)))

    assert spec == {
        "public_queue_aliases": ["to-client-queue", "from-client-queue"],
        "tasks": [
            {
                "cluster_locations": ["osg"],
                "input_queue_aliases": ["to-client-queue"],
                "output_queue_aliases": ["from-client-queue"],
                "task_image": "/cvmfs/images/skymap_scanner:4.1.2",
                "task_args": "python -m skymap_scanner.client --infile {{INFILE}} --outfile {{OUTFILE}} "
                "--client-startup-json {{DATA_HUB}}/startup.json",
                "task_env": {"SKYDRIVER_SCAN_ID": SCAN_ID, "SKYDRIVER_INSTANCE": "prod"},
                "init_image": "/cvmfs/images/skymap_scanner:4.1.2",
                "init_args": "curl --fail --silent --show-error --max-time 1800 --retry 180 --retry-delay 10 "
                f"--retry-max-time 1800 --retry-all-errors --output {{{{DATA_HUB}}}}/startup.json '{URL}'",
                "n_workers": 1500,
                "pilot_config": {
                    "tag": "latest",
                    "image_source": "auto",
                    "environment": {
                        "EWMS_PILOT_TASK_TIMEOUT": "1800",
                        "EWMS_PILOT_QUARANTINE_TIME": "1800",
                        "EWMS_PILOT_TIMEOUT_QUEUE_INCOMING": "3600",
                        "EWMS_PILOT_INIT_TIMEOUT": "1801",
                        "EWMS_PILOT_CONTAINER_DEBUG": "True",
                        "EWMS_PILOT_INFILE_EXT": ".json",
                        "EWMS_PILOT_OUTFILE_EXT": ".json",
                    },
                    "input_files": [],
                },
                "worker_config": {
                    "do_transfer_worker_stdouterr": True,
                    "max_worker_runtime": 86400,
                    "n_cores": 1,
                    "priority": 0,
                    "worker_disk": 1_000_000_000,
                    "worker_memory": 8_000_000_000,
                    "condor_requirements": "HAS_CVMFS_icecube_opensciencegrid_org && has_avx && has_avx2",
                },
            }
        ],
    }


def test_every_cluster_gets_its_own_task_with_its_own_number_of_workers() -> None:
    tasks = tasks_of(an_order(clusters=(("osg", 1500), ("local", 5), ("osg", 200))))

    assert [(task["cluster_locations"], task["n_workers"]) for task in tasks] == [(["osg"], 1700), (["local"], 5)]


@given(st.lists(st.tuples(st.sampled_from(["osg", "local", "sub-2"]), st.integers(1, 9)), min_size=1))
def test_merging_keeps_the_total_and_names_each_cluster_once(clusters: list[tuple[str, int]]) -> None:
    merged = merged_clusters(clusters)

    assert sum(n for _, n in merged) == sum(n for _, n in clusters)
    assert [name for name, _ in merged] == list(dict.fromkeys(name for name, _ in clusters))


def test_client_logs_make_the_pilots_dump_their_output() -> None:
    pilot = tasks_of(an_order(is_client_logs=True))[0]["pilot_config"]

    assert isinstance(pilot, dict)
    assert pilot["environment"]["EWMS_PILOT_DUMP_TASK_OUTPUT"] == "True"


def test_the_presigned_url_is_one_word_of_the_init_command() -> None:
    words = shlex.split(str(tasks_of(an_order())[0]["init_args"]))

    assert words[0] == "curl"
    assert words[-1] == URL


@pytest.mark.parametrize(("priority", "sent"), [(-1, None), (0, None), (100, None), (250, 250)])
def test_only_a_priority_that_has_an_effect_is_given_to_the_workflow(priority: int, sent: int | None) -> None:
    assert workflow_spec(an_order(priority=priority)).get("priority") == sent


def test_an_order_without_clusters_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="at least one cluster"):
        workflow_spec(an_order(clusters=()))


def test_an_order_shows_no_credential_when_it_is_printed() -> None:
    assert "Signature" not in repr(an_order())


def test_the_startup_object_is_named_after_the_scan() -> None:
    assert startup_object_key(SCAN_ID) == f"{SCAN_ID}-s3-object"


def test_of_several_workflows_the_oldest_live_one_is_kept() -> None:
    dead = Workflow("WF-0", 1.0, deactivated="ABORTED")
    late, early, twin = Workflow("WF-3", 9.0), Workflow("WF-1", 5.0), Workflow("WF-2", 5.0)

    choice = choose_workflow([late, twin, dead, early])

    assert choice.keep == early
    assert set(choice.abort) == {late, twin}


def test_a_recorded_workflow_is_never_traded_for_an_older_one() -> None:
    older, ours = Workflow("WF-1", 1.0), Workflow("WF-2", 2.0)

    assert choose_workflow([older, ours], assigned="WF-2").keep == ours
    assert choose_workflow([older], assigned="WF-2").keep is None
    assert choose_workflow([older], assigned="WF-2").abort == (older,)


def test_nothing_found_means_nothing_to_keep_or_abort() -> None:
    assert choose_workflow([]).keep is None
    assert choose_workflow([]).abort == ()


@given(st.permutations([Workflow("WF-1", 5.0), Workflow("WF-2", 5.0), Workflow("WF-3", 4.0), Workflow("WF-4", 6.0)]))
def test_every_replica_makes_the_same_choice(candidates: list[Workflow]) -> None:
    keep = choose_workflow(candidates).keep

    assert keep is not None
    assert keep.workflow_id == "WF-3"


def test_workers_are_added_to_the_task_of_their_cluster() -> None:
    osg = TaskDirective("TK-1", "WF-1", 1.0, ("osg",))
    local = TaskDirective("TK-2", "WF-1", 1.0, ("local",))

    assert task_for_cluster([osg, local], "local") == local
    assert task_for_cluster([local, osg], "never-seen") == osg
    assert task_for_cluster([], "osg") is None


def a_taskforce(uuid: str, *, task_id: str = "TK-1", n_workers: int = 10, timestamp: float = 1000.0) -> Taskforce:
    return Taskforce(uuid, task_id, "WF-1", timestamp, n_workers, "pending-starter")


def test_a_batch_made_by_a_call_without_an_answer_is_recognised() -> None:
    there = [
        a_taskforce("TF-before"),
        a_taskforce("TF-other-task", task_id="TK-2"),
        a_taskforce("TF-other-number", n_workers=11),
        a_taskforce("TF-old", timestamp=10.0),
    ]
    ours = a_taskforce("TF-ours", timestamp=990.0)

    found = added_taskforce([*there, ours], before={"TF-before"}, task_id="TK-1", n_workers=10, since=1000.0)
    assert found == ours
    assert added_taskforce(there, before={"TF-before"}, task_id="TK-1", n_workers=10, since=1000.0) is None
