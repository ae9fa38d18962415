"""Pages that are made from the code say what the code says; recipes name files that are there."""

import re

import pytest

from tests.support.reference_pages import PAGES, ROOT

RECIPES = ROOT / "docs/developers/where-to-change.md"
FOLDERS = {
    "common": "libs/common/skydriver_common", "ops": "libs/ops/skydriver_ops", "cli": "libs/cli/skydriver_cli",
    "api": "services/api/skydriver_api", "dispatcher": "services/dispatcher/skydriver_dispatcher",
    "bridge": "services/ewms_bridge/skydriver_ewms_bridge", "progress": "services/progress/skydriver_progress",
}  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_says_what_the_code_says(page: str) -> None:
    assert (ROOT / page).read_text() == PAGES[page](), "make docs"


def test_every_metric_and_kind_of_due_work_has_its_row() -> None:
    metrics, kinds = PAGES["docs/operators/metrics.md"](), PAGES["docs/developers/due-kinds.md"]()
    for name in ("skydriver_commands_total", "skydriver_relay_lag_seconds", "skydriver_live_streams", "skydriver_watch_leads"):
        assert f"`{name}`" in metrics
    for kind in ("launch", "ewms-assign", "progress.compact"):
        assert f"`{kind}`" in kinds


def test_every_setting_has_a_meaning() -> None:
    rows = [line for line in PAGES["docs/operators/configuration.md"]().splitlines() if line.startswith("| `SKYDRIVER_")]
    assert len(rows) > 60
    assert [row for row in rows if not row.split("|")[3].strip()] == []


def test_the_recipes_name_files_that_are_there() -> None:
    named = [name for name in re.findall(r"`([\w./-]+)`", RECIPES.read_text()) if "/" in name]
    folders = {short: ROOT / folder for short, folder in FOLDERS.items()}
    paths = {
        name: folders.get(name.partition("/")[0], ROOT / name.partition("/")[0]) / name.partition("/")[2] for name in named
    }
    assert len(paths) > 60
    assert [name for name, path in paths.items() if not path.exists()] == []


def test_the_recipes_name_tests_that_are_there() -> None:
    tests = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    named = set(re.findall(r"\b(test_\w+\.py)", RECIPES.read_text()))
    assert len(named) > 20
    assert named - tests == set()
