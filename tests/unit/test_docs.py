"""Pages lead somewhere: every relative link in the project's documents names a file that is there. And they leave nothing out."""

import inspect
import re
from pathlib import Path

import skydriver_api.main
import skydriver_dispatcher.main
import skydriver_ewms_bridge.due_kinds
import skydriver_ewms_bridge.main
import skydriver_progress.main
from skydriver_common.runtime import service_resources as foundation
from skydriver_dispatcher import due_kinds as dispatcher_kinds
from skydriver_ewms_bridge import due_kinds as bridge_kinds
from skydriver_progress import due_kinds as progress_kinds

ROOT = Path(__file__).parents[2]
FOLDERS = ("deploy", "docs", "libs", "sandbox", "services", "tests")
_LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)")


def test_every_link_between_documents_leads_to_a_file() -> None:
    pages = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]
    broken = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in _LINK.findall(page.read_text())
        if not (page.parent / link).exists()
    ]
    assert len(pages) > 10
    assert broken == []


def test_the_page_of_due_work_names_every_kind_and_every_loop() -> None:
    mains = (foundation, skydriver_api.main, skydriver_dispatcher.main, skydriver_ewms_bridge.main, skydriver_progress.main)
    constants = {
        value
        for module in (*mains, skydriver_ewms_bridge.due_kinds)
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, str) and re.fullmatch(r"[a-z]+([.-][a-z]+)*", value)
    }
    constants |= {*dispatcher_kinds.DueKind, *bridge_kinds.DueKind, *progress_kinds.DueKind}
    text = "".join(inspect.getsource(module) for module in mains)
    loops = set(
        re.findall(r'(?<!\], )service\.loop\("([a-z.-]+)"', text)
    )  # those that are woken for a kind of work are not meant
    assert {"launch", "stop", "progress.compact", "ewms-assign"} <= constants
    assert {"relay", "clock", "reconcile"} <= loops
    page = (ROOT / "docs/developers/due-work.md").read_text()
    missing = {name for name in constants | loops if f"`{name}`" not in page}
    assert missing == set()
