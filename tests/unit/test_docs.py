"""Pages lead somewhere: every relative link in the project's documents names a file that is there."""

import re
from pathlib import Path

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
