"""What bodies are accepted, and how they are refused. Numbers in names are the REST contract's conformance cases."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_api.payloads.requests import (
    parse_delete,
    parse_patch,
    parse_rescan,
    parse_scan_request,
    parse_workflow_id,
)
from skydriver_common.model.steering_variables import UserVariables
from skydriver_common.payloads.field_errors import InvalidBody
from skydriver_common.payloads.reports import split_result

CLUSTERS = {"osg": 100, "sub-2": 100, "local": 5}
REQUIRED = {"docker_tag", "reco_algo", "nsides", "real_or_simulated_event", "max_pixel_reco_time"}


def a_body(**changes: Any) -> bytes:
    body = {
        "docker_tag": "latest",
        "reco_algo": "dummy",
        "nsides": {"8": 0},
        "real_or_simulated_event": "real",
        "max_pixel_reco_time": 10,
        "cluster": {"osg": 1},
        "event_i3live_json": {"a": 1},
    } | changes
    return json.dumps({name: value for name, value in body.items() if value is not ...}).encode()


def request_of(raw: bytes) -> dict[str, Any]:
    return parse_scan_request(raw, clusters=CLUSTERS).scan_request(docker_tag="4.0.1", i3_event_id="e")


def refused(raw: bytes) -> str:
    with pytest.raises(InvalidBody) as caught:
        parse_scan_request(raw, clusters=CLUSTERS)
    return str(caught.value)


def test_an_empty_request_names_all_required_fields() -> None:  # 2
    text = refused(b"{}")
    assert all(f"{name}: is required" in text for name in (*REQUIRED, "request_clusters"))


def test_fields_of_a_stored_request_are_no_input() -> None:  # 3
    text = refused(a_body(scan_id="x", rescan_ids=[]))
    assert "scan_id:" in text
    assert "rescan_ids:" in text


@pytest.mark.parametrize(
    "changes",
    [{"i3_event_id": "e"}, {"event_i3live_json": ...}, {"event_i3live_json": {}}],
    ids=["both", "neither", "empty object alone"],
)
def test_exactly_one_event_is_needed(changes: dict[str, Any]) -> None:  # 4
    assert "event_i3live_json" in refused(a_body(**changes))


def test_an_empty_event_beside_an_id_is_fine() -> None:  # 4
    assert parse_scan_request(a_body(event_i3live_json={}, i3_event_id="e"), clusters=CLUSTERS).event is None


@pytest.mark.parametrize("text", ["[1]", "", "{broken", "{}"])
def test_event_text_must_be_one_object_that_is_not_empty(text: str) -> None:  # 5
    assert "event_i3live_json" in refused(a_body(event_i3live_json=text))


def test_the_event_is_kept_as_it_was_sent() -> None:
    raw = a_body(event_i3live_json=...)[:-1] + b', "event_i3live_json": {"b": NaN, "a": 1.50}}'
    assert parse_scan_request(raw, clusters=CLUSTERS).event == b'{"b": NaN, "a": 1.50}'
    assert parse_scan_request(a_body(event_i3live_json=' {"b": NaN} '), clusters=CLUSTERS).event == b'{"b": NaN}'


@pytest.mark.parametrize("value", ["8G", False, 5])
def test_memory_stands_for_nothing(value: Any) -> None:  # 7
    assert "worker_memory_bytes" in refused(a_body(memory=value))


@pytest.mark.parametrize("value", ["", 0, None])
def test_an_empty_memory_is_ignored(value: Any) -> None:  # 7
    assert request_of(a_body(memory=value))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"worker_memory_bytes": 0, "worker_memory": "4GiB"}, 4294967296),
        ({"worker_memory_bytes": 0}, 8_000_000_000),
        ({"worker_memory": 3.0}, 3),
    ],
)
def test_the_first_size_that_is_not_empty_wins(changes: dict[str, Any], expected: int) -> None:  # 8
    assert request_of(a_body(**changes))["worker_memory_bytes"] == expected


def test_sizes_are_read_as_people_write_them() -> None:  # 9
    assert request_of(a_body(worker_disk="4Gi"))["worker_disk_bytes"] == 4_000_000_000
    for wrong in ("1e3", "0.5", "-1GB", True, 1.5, -1):
        assert "worker_disk:" in refused(a_body(worker_disk=wrong))


def test_the_cap_of_client_logs_counts_all_pairs_of_a_cluster() -> None:  # 10
    text = refused(a_body(cluster=[["osg", 60], ["osg", 60]], debug_mode="client-logs"))
    assert "osg" in text
    assert "100" in text
    assert request_of(a_body(cluster=[["osg", 60], ["osg", 60]]))["request_clusters"] == [("osg", 60), ("osg", 60)]


def test_nsides_keep_their_order() -> None:  # 12
    assert list(request_of(a_body(nsides={"512": 24, "8": 0, "64": 12}))["nsides"]) == ["512", "8", "64"]


def test_a_stored_request_can_be_posted_again() -> None:  # 13
    stored = request_of(a_body(classifiers={"x": None}, priority=-1, debug_mode=["client-logs"]))
    again = parse_scan_request(json.dumps(stored).encode(), clusters=CLUSTERS)
    assert again.scan_request(docker_tag="4.0.1", i3_event_id="e") == stored


@pytest.mark.parametrize(
    "classifiers",
    [{"k" * 26: 1}, {str(n): n for n in range(26)}, {"rescan": True}, {"a": [1]}, {"a": "v" * 26}],
    ids=["long key", "many", "reserved", "list", "long value"],
)
def test_classifiers_are_short_and_plain(classifiers: dict[str, Any]) -> None:  # 14
    assert "classifiers" in refused(a_body(classifiers=classifiers))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("docker_tag", "../x"), ("docker_tag", " "), ("reco_algo", "a b"), ("nsides", {}), ("nsides", {"x": 1}),
        ("nsides", {"0": 1}), ("nsides", {"8": -1}), ("nsides", {"8": 0.5}), ("real_or_simulated_event", "REAL"),
        ("max_pixel_reco_time", 0), ("max_pixel_reco_time", True), ("max_pixel_reco_time", "5"), ("cluster", {}),
        ("cluster", {"moon": 1}), ("cluster", [["osg"]]), ("cluster", {"osg": 0}), ("predictive_scanning_threshold", 0.05),
        ("predictive_scanning_threshold", 0.1), ("predictive_scanning_threshold", 1.01), ("reco_algo", "--help"), ("reco_algo", "-"),
        ("scanner_server_env", {"HOME": "/root"}), ("scanner_server_env", {"EWMS_TASK_DATA_HUB_DIR": "/"}),
        ("scanner_server_env", {"SKYSCAN_RESULT_INTERVAL_SEC": 60.5}), ("scanner_server_env", {"SKYSCAN_LOG": "LOUD"}),
        ("priority", 1.5), ("priority", None), ("debug_mode", "all"), ("scanner_server_env", {"1X": "a"}),
        ("scanner_server_env", {"SKYSCAN_SKYDRIVER_AUTH": "a"}), ("manifest_projection", "x"),
        ("manifest_projection", ["a", "a"]),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_and_its_value_is_not(field: str, value: Any) -> None:
    assert f"{field}" in refused(a_body(**{field: value}))
    secret = "s3cr3t value"
    assert secret not in refused(a_body(unheard_of=secret, max_pixel_reco_time=secret))


def test_the_threshold_is_greater_than_a_tenth() -> None:
    for wrong in (0.1, 0, 1.0000001):
        assert refused(a_body(predictive_scanning_threshold=wrong)) == (
            "predictive_scanning_threshold: must be greater than 0.1 and at most 1.0"
        )
    for right in (0.10000000000000002, 0.3, 1, 1.0):
        assert request_of(a_body(predictive_scanning_threshold=right))["predictive_scanning_threshold"] == right


def test_variables_that_a_scanner_reads_have_its_form() -> None:
    wanted = {"SKYSCAN_RESULT_INTERVAL_SEC": 60, "SKYSCAN_LOG": "debug", "SKYSCAN_MQ_TIMEOUT_FROM_CLIENTS": None, "MINE": 1.5}
    assert request_of(a_body(scanner_server_env=wanted))["scanner_server_env_from_user"] == wanted
    why = refused(a_body(scanner_server_env={"SKYSCAN_RESULT_INTERVAL_SEC": "3.6e+03"}))
    assert why == "scanner_server_env.SKYSCAN_RESULT_INTERVAL_SEC: must be a whole number from 1 to 315360000 s"


def test_a_variable_that_steers_a_process_is_refused_by_name_and_with_the_setting() -> None:
    why = refused(a_body(scanner_server_env={"PYTHONWARNINGS": "all:0:antigravity.x:0:0", "BROWSER": "sh -c id", "MINE": "1"}))
    assert "scanner_server_env.PYTHONWARNINGS: steers an interpreter; SKYDRIVER_USER_ENV_ALLOW never lets it through" in why
    assert "scanner_server_env.BROWSER: names a program to run; SKYDRIVER_USER_ENV_ALLOW never lets it through" in why
    assert "MINE" not in why


def test_a_variable_that_the_setting_does_not_let_through_is_refused() -> None:
    raw = a_body(scanner_server_env={"MINE": 1, "SKYSCAN_LOG": "DEBUG"})
    with pytest.raises(InvalidBody) as caught:
        parse_scan_request(raw, clusters=CLUSTERS, variables=UserVariables.parse("SKYSCAN_*"))
    assert str(caught.value) == "scanner_server_env.MINE: is not let through by SKYDRIVER_USER_ENV_ALLOW (SKYSCAN_*)"


def test_nan_is_refused_outside_the_event() -> None:
    assert "priority" in refused(a_body()[:-1] + b', "priority": NaN}')


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"a=b", b"\xff"])
def test_a_body_that_is_no_object_is_refused(raw: bytes) -> None:
    refused(raw)
    with pytest.raises(InvalidBody):
        parse_patch(raw)


def test_optional_bodies_may_be_absent() -> None:
    assert not parse_rescan(b"").replace_scan
    assert not parse_delete(b"{}").delete_completed_scan
    with pytest.raises(InvalidBody, match="abort_first"):
        parse_rescan(b'{"abort_first": 1}')


def test_a_scanners_report_is_taken_with_what_it_adds() -> None:  # 27
    report = {
        "progress": {
            "summary": "", "epilogue": "", "tallies": {"x": {"y": 1}}, "processing_stats": {"start": {}, "runtime": {}, "new": 1},
            "predictive_scanning_threshold": 1, "last_updated": "t", "start": 3.0, "end": None, "sequence": 9,
        },
        "event_metadata": {"run_id": 1.0, "event_id": 2, "event_type": None, "mjd": 3.5, "is_real_event": True, "version": 1},
        "scan_metadata": {"a": 1},
    }  # fmt: skip
    parsed = parse_patch(json.dumps(report).encode())
    assert parsed.event_metadata == {"run_id": 1, "event_id": 2, "event_type": None, "mjd": 3.5, "is_real_event": True}
    assert parsed.progress is not None
    assert parsed.progress["processing_stats"] == {
        "start": {}, "runtime": {}, "rate": {}, "end": "", "finished": False, "predictions": {},
    }  # fmt: skip
    assert "sequence" not in parsed.progress
    assert parsed.progress["start"] == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [({"progress": {}}, "progress.summary"), ({"scan_metadata": None}, "scan_metadata"), ({"foo": 1}, "foo"),
     ({"event_metadata": {"run_id": "1"}}, "event_metadata.run_id")],
)  # fmt: skip
def test_a_wrong_report_names_its_fields(body: dict[str, Any], named: str) -> None:  # 29
    with pytest.raises(InvalidBody, match=named):
        parse_patch(json.dumps(body).encode())
    assert parse_patch(b'{"progress": null}').progress is None


def test_a_skymap_is_split_off_untouched() -> None:  # 30, 31
    skymap = b'{ "nside-8": {"data": [[0, 1.50, NaN, -Infinity]]} }'
    assert split_result(b'{"is_final": true, "skyscan_result": %b}' % skymap) == (skymap, True)
    for wrong, named in ((b"{}", "skyscan_result.*is_final"), (b'{"skyscan_result": null, "is_final": 1}', "is_final")):
        with pytest.raises(InvalidBody, match=named):
            split_result(wrong)


def test_workflow_ids_are_not_blank() -> None:
    with pytest.raises(InvalidBody, match=r"workflow_id.*ewms_address"):
        parse_workflow_id(b'{"workflow_id": " "}')


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*REQUIRED, "cluster", "classifiers", "priority", "debug_mode", "x"]), JSON))
def test_no_body_is_answered_by_anything_but_a_refusal(body: dict[str, Any]) -> None:
    try:
        outcome: object = request_of(json.dumps(body).encode())
    except InvalidBody as refusal:
        outcome = str(refusal)
    assert outcome


def broken(event: str, *, as_text: bool) -> str:
    """How a request with this event is refused."""
    if as_text:
        return refused(a_body(event_i3live_json=event))
    return refused(a_body(event_i3live_json=...)[:-1] + b', "event_i3live_json": ' + event.encode() + b"}")


@pytest.mark.parametrize("as_text", [False, True])
@pytest.mark.parametrize(
    ("event", "line", "path"),
    [
        ('{"value": {"data": {"run": 5,\n "ra": }}}', 2, "value.data.ra"),
        ('{"a": [1, {"b": 2}, {"c": [0, 1,\n\n x]}]}', 3, "a.2.c.2"),
        ('{"a": {"text with \\" and , [": {"é": 1 2}}}', 1, 'a.text with " and , [.é'),
        ('{"a": {}, "b" 1}', 1, ""),
        ('{"a": "no end}', 1, "a"),
    ],
)
def test_an_event_that_does_not_parse_is_refused_with_line_column_and_path(
    event: str, line: int, path: str, as_text: bool
) -> None:
    text = broken(event, as_text=as_text)
    place = path if as_text else ".".join(filter(None, ["event_i3live_json", path]))
    assert f"(line {line}, column " in text
    assert (f", in {place})" in text) == bool(place)


def test_the_column_of_a_broken_event_counts_characters_from_1() -> None:
    assert "(line 2, column 9, in a)" in broken('\u00a0{\n"a": "é" 1}'.replace('é" 1', 'é"1'), as_text=True)


@given(st.binary(max_size=30), st.sampled_from([b"", b'{"a": [{"', b'{"a": {"b": "', b"]]}}"]))
def test_whatever_is_wrong_with_a_body_is_said(tail: bytes, head: bytes) -> None:
    with pytest.raises(InvalidBody):
        parse_delete(head + b"!" + tail)


def test_a_place_far_behind_the_start_has_no_path_but_line_and_column() -> None:
    raw = b'{"a": [' + b"1," * 1_000_000 + b"x]}"
    assert "(line 1, column 2000008)" in refused(raw)
