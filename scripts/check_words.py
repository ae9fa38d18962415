"""Find words that this project does not use, in documents and in the texts and names of the code.

The reasons: ``docs/developers/language.md``. Run by ``make check``. Prints ``file:line: found → use`` for each hit; the exit code is 1
when there is any.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

TEXTS = {
    r"\banew\b": "again",
    r"\bfor ever\b": "forever",
    r"\bthereby\b": "(leave it out)",
    r"\bin vain\b": "say what follows: it cannot start, it times out",
    r"\blets? go of\b|\b(?:was|were|is|are|be|been) let go\b|\bwhat is let go\b": "compacted, deleted, closed or released",
    r"\b(?:is|are|was|were|be|been) away\b": "unavailable",
    r"\bstill away\b": "still unavailable",
    r"\b(?:does|do|did|has|have) not answer(?:ed)?\b": "does not respond",
    r"\banswers? what\b": "responds with what",
    r"\b(?:is|are|holds?) no (?:JSON|text|HTTP|UTF-8|pair|zstd|seal|export|usable|SQL)\b": "is not a …",
    r"\b(?:is|are) not known\b|\bno such \w+ is known\b": "not found, or unknown …",
    r"\bthere is no such\b": "not found",
    r"\btold of\b|\bwhat is told\b|\bis told\b|\bare told\b|\btold that\b": "reported",
    r"\b(?:is|are) not well\b|\bgoes on well\b": "is not healthy",
    r"\bnot get on\b": "is stuck",
    r"\bhand(?:s|ed|ing)? over\b|\bhand-over\b": "deliver, delivery",
    r"\bbur(?:y|ies|ied)\b(?!-)": "dead-letter",
    r"\bhow manieth\b": "the number of",
    r"\bthrow(?:s|n|ing)? away\b|\bthrew .{1,20} away\b": "discard",
    r"\b[Aa] defect of\b": "internal error",
    r"\bsaboteurs?\b": "fault injector",
    r"\bfights?\b": "chaos run",
    r"\bbells?\b|\brung\b": "notification, notified",
    r"\blanes?\b": "batch consumer",
    r"\bturnstiles?\b": "limiter",
    r"\bhears? of\b|\bheard of\b": "is notified of",
    r"\bpatiently\b": "(say what is retried)",
    r"\bcomes? again\b": "retry",
    r"\bis red\b": "is not ready, fails",
    r"\bdied of\b": "reason:",
    r"\bat most so many\b|\bafter so many\b": "maximum number of …",
    r"\bthe whole took\b": "in total",
    r"\bclose[sd]? the way\b|\bthe way is open\b": "open(s) or close(s) the circuit breaker",
    r"\bthere already\b": "already exists",
    r"\bpassing trouble\b": "transient faults",
    r"\bmend(?:s|ed|ing)?\b": "fix, repair",
    r"\bfor want of\b": "for lack of",
    r"\bforerunner\b": "predecessor",
    r"\bsuperfluous\b": "duplicate, orphaned",
    r"\bis cut off\b": "is incomplete",
    r"\bmust be a text\b": "must be a string",
    r"\bhalf (?:a|of a) surrogate\b": "an unpaired surrogate",
    r"\bvalue belongs here\b": "expected a value",
    r"\bset both, or none\b": "set both or neither",
    r"\bis set already\b": "already set",
    r"\bno reason is known\b": "no reason given",
    r"\bwhole numbers?\b": "integer",
    r"\bcarr(?:y|ies|ying) the past\b|\btell(?:s|ing)? the past\b": "export, replay",
}
"""Pattern to what stands in its place. In texts: documents, help, string literals."""

CONTRACTIONS = {r"\b(?:ca|wo|do|does|is|are|did|has|was)n't\b": "cannot, does not: contractions only in the command line"}

NAMES = frozenset(
    [
        "Bell", "Drain", "Together", "Member", "Turn", "Lane", "Hearing", "Letter", "Courier", "Eyes", "Turnstile", "Doubt", "Budget",
        "Commander", "Pulse", "Foundation", "Happened", "RoomMade", "NoRoom", "forever", "patiently", "bury", "unbury", "past",
        "tidied", "Tidied", "tidy", "saboteur", "Saboteur", "judge", "Judge", "hasten", "put_anew", "let_go", "ring", "on_ring",
    ]
)  # fmt: skip
"""Of classes, functions and modules: images that became terms."""

DOCUMENTS = ("*.md", "docs", "deploy", "libs", "services", "sandbox")
NOT_THESE = ("CHANGELOG.md", "docs/decisions/", "docs/developers/language.md", "docs/developers/schema.sql")
CODE = ("libs", "services")
COMMAND_LINE = "libs/cli/"

ALLOWED = {
    # what is stored or sent by name: labels of metrics, names of log events that alerts rely on
    "libs/common/skydriver_common/bus/settlement.py": ("buried",),
    "docs/developers/settlement.md": ("buried",),
    "docs/operators/alerts.md": ("buried",),
    "docs/operators/log-events.md": ("buried",),
    "services/progress/skydriver_progress/adapters/batch_consumer.py": ("buried",),
}
"""File to texts in which a pattern may be found: constants of the contract, stored values."""


def _patterns(path: str) -> dict[re.Pattern[str], str]:
    chosen = TEXTS if path.startswith(COMMAND_LINE) else TEXTS | CONTRACTIONS
    return {re.compile(pattern, re.IGNORECASE): instead for pattern, instead in chosen.items()}


def texts_of(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and text of what a person reads of a file: each line of a document; string literals of code, and help of commands."""
    if not path.endswith(".py"):
        yield from enumerate(source.splitlines(), 1)
        return
    tree = ast.parse(source)
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(statement.value)
        for owner in ast.walk(tree)
        if isinstance(owner, owners)
        for statement in owner.body
        if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    }
    has_help = path.startswith(COMMAND_LINE) or path.endswith("/settings.py")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (has_help or id(node) not in docstrings):
            yield node.lineno, node.value


def names_of(source: str) -> Iterator[tuple[int, str]]:
    """Line and name of every class and function that is defined."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name


def found_in(path: str, source: str) -> Iterator[str]:
    """``file:line: found → use`` for each word that should be another one."""
    patterns = _patterns(path)
    for line, text in texts_of(path, source):
        for pattern, instead in patterns.items():
            for hit in pattern.finditer(text):
                if hit[0].lower() not in ALLOWED.get(path, ()):
                    yield f"{path}:{line + text.count(chr(10), 0, hit.start())}: {hit[0]!r} → {instead}"
    if path.endswith(".py"):
        yield from (
            f"{path}:{line}: name {name} → a term of the field" for line, name in names_of(source) if name.strip("_") in NAMES
        )


def files() -> Iterator[str]:
    """Every file that is looked at, relative to the checkout."""
    listed = subprocess.check_output(["git", "ls-files", "--", *DOCUMENTS, *CODE], cwd=ROOT, text=True).split("\n")
    for path in listed:
        is_read = path.endswith(".md") or (path.endswith(".py") and path.startswith(CODE))
        if is_read and not path.startswith(NOT_THESE) and (ROOT / path).is_file():
            yield path


def main() -> int:
    """Print what was found."""
    hits = [hit for path in files() for hit in found_in(path, (ROOT / path).read_text())]
    print("\n".join(hits) if hits else "word list: nothing found")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main())
