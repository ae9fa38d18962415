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
_HEADING_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)#([^)]+)\)")


def _pages() -> list[Path]:
    return [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))]


def _anchors(page: Path) -> set[str]:
    """The names of a page's headings in links, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_to_a_heading_leads_to_one() -> None:
    broken = [
        f"{page.relative_to(ROOT)}: {link}#{heading}"
        for page in _pages()
        for link, heading in _HEADING_LINK.findall(page.read_text())
        if heading not in _anchors(page.parent / link if link else page)
    ]
    assert broken == []


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs/index.md"
    linked = {(index.parent / link).resolve() for link in _LINK.findall(index.read_text())}
    missing = [page for page in (ROOT / "docs").rglob("*.md") if page.resolve() not in linked and page != index]
    assert [str(page.relative_to(ROOT)) for page in missing if "decisions" not in page.parts] == []


def test_every_link_between_documents_leads_to_a_file() -> None:
    pages = _pages()
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
