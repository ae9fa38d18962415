"""What has to be said in several places is said in all: steps of docs/developers/where-to-change.md that nothing else proves."""

import re
from pathlib import Path
from typing import cast

import pytest
from pydantic import BaseModel

from skydriver_api.payloads import responses
from skydriver_common.log import pending_writes, stored_state
from skydriver_common.model import event_codec
from skydriver_common.model.ids import ScanId
from skydriver_common.model.scan import Scan
from skydriver_common.model.scan_request import ScanRequest
from skydriver_common.payloads import reports
from skydriver_ops.eventlog.describe import sentence
from skydriver_ops.eventlog.fold import VIEWS
from tests.support.recorded import recorded

ROOT = Path(__file__).parents[2]
_SERVED_ONLY = {"scan_id", "ewms_task", "event_i3live_json_dict", "event_i3live_json_dict__hash"}


def test_every_field_of_the_manifest_is_stored_and_described() -> None:
    nowhere = ScanId("18e0f1a2b3cx4f5e6d7c8b9a0f1e2d3c")
    scan = Scan(
        scan_id=nowhere, version=1, timestamp=0.0, last_updated=0.0, scanner_server_args="", priority=0, classifiers={},
        i3_event_id="", request=cast(ScanRequest, {}), request_scan_id=nowhere, event_digest="",
    )  # fmt: skip
    manifest = set(scan.manifest())
    assert manifest == set(responses.Manifest.model_fields)
    assert manifest - _SERVED_ONLY == set(stored_state._MANIFEST), "a field of the manifest is read back by this list"


@pytest.mark.parametrize(
    ("taken", "described"),
    [
        (reports.Progress, responses.ManifestProgress),
        (reports.ProcessingStats, responses.ManifestProcessingStats),
    ],
)
def test_what_a_scanner_reports_is_described_as_what_the_manifest_shows(
    taken: type[BaseModel], described: type[BaseModel]
) -> None:
    assert set(taken.model_fields) == set(described.model_fields)


def test_every_column_of_the_manifests_is_written_rebuilt_and_in_the_statement() -> None:
    statement = (ROOT / "libs/common/skydriver_common/log/sql/log.sql").read_text()
    assert len(pending_writes._MANIFEST_COLUMNS) == len(VIEWS["manifests"])
    assert [name for name in pending_writes._MANIFEST_COLUMNS if f":{name}" not in statement] == []
    assert [name for name in VIEWS["manifests"] if not re.search(rf"\b{name}\b", statement)] == []


def test_every_event_has_a_sentence_in_the_history() -> None:
    silent = {
        line["type"]
        for line in recorded()
        if sentence(event_codec.parse_event(line["type"], line["schema_version"], event_codec.encode(line["data"])))
        == line["type"]
    }
    assert silent == set()
