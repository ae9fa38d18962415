"""The hand-over of credentials through files."""

import json
import stat
from pathlib import Path

import pytest

from skydriver_common.model.ids import ScanId
from skydriver_ewms_bridge.adapters.profile_files import ProfileFiles
from skydriver_ewms_bridge.ewms_types import StartupUpload


async def test_both_files_appear_whole_and_for_their_owner_only(tmp_path: Path) -> None:
    sink = ProfileFiles(tmp_path)

    await sink.put_upload(ScanId("scan-1"), StartupUpload("https://s3.example/put"))
    await sink.put_profile(ScanId("scan-1"), {"toclient": {"name": "a1"}})

    upload, profile = tmp_path / "scan-1" / "startup-upload.json", tmp_path / "scan-1" / "ewms.json"
    assert json.loads(upload.read_text()) == {"method": "PUT", "url": "https://s3.example/put"}
    assert json.loads(profile.read_text()) == {"toclient": {"name": "a1"}}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (upload, profile)} == {0o600}
    assert sorted(path.name for path in (tmp_path / "scan-1").iterdir()) == ["ewms.json", "startup-upload.json"]


async def test_a_second_profile_replaces_the_first(tmp_path: Path) -> None:
    sink = ProfileFiles(tmp_path)

    await sink.put_profile(ScanId("scan-1"), {"version": 1})
    await sink.put_profile(ScanId("scan-1"), {"version": 2})

    assert json.loads((tmp_path / "scan-1" / "ewms.json").read_text()) == {"version": 2}


async def test_taking_back_may_be_repeated(tmp_path: Path) -> None:
    sink = ProfileFiles(tmp_path)
    await sink.put_profile(ScanId("scan-1"), {})

    await sink.remove(ScanId("scan-1"))
    await sink.remove(ScanId("scan-1"))
    await sink.remove(ScanId("never-there"))

    assert list((tmp_path / "scan-1").iterdir()) == []


async def test_a_name_that_leads_elsewhere_is_no_scan_id(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a scan id"):
        await ProfileFiles(tmp_path).put_profile(ScanId("../other"), {})
