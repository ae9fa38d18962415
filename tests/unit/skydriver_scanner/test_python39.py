"""Scanner images run old Pythons: nothing newer than 3.9 may be used, neither syntax nor the standard library's names."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import skydriver_scanner

PACKAGE = Path(skydriver_scanner.__file__).parent
NEWER = {  # what a developer on a newer Python reaches for
    "asyncio": {"timeout", "timeout_at", "TaskGroup", "Runner", "Barrier"},
    "contextlib": {"chdir", "aclosing"},
    "datetime": {"UTC"},
    "enum": {"StrEnum"},
    "itertools": {"pairwise", "batched"},
    "typing": {"Self", "assert_never", "ParamSpec", "TypeAlias", "Never", "LiteralString", "override"},
}


def test_no_module_uses_syntax_newer_than_python_39() -> None:
    for path in PACKAGE.glob("*.py"):
        ast.parse(path.read_text(), filename=path.name, feature_version=(3, 9))


def test_no_module_uses_newer_names_of_the_standard_library() -> None:
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert node.attr not in NEWER.get(node.value.id, ()), f"{path.name}:{node.lineno} {node.attr}"
            if isinstance(node, ast.ImportFrom):
                newer = NEWER.get(node.module or "", set()) & {alias.name for alias in node.names}
                assert not newer, f"{path.name}:{node.lineno} {newer}"
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("dataclass", "zip"):
                words = {keyword.arg for keyword in node.keywords}
                assert not words & {"slots", "kw_only", "strict"}, f"{path.name}:{node.lineno}"


_ALL_MODULES = """
import importlib, pkgutil, sys
from unittest.mock import MagicMock
for name in ("aio_pika", "aio_pika.abc", "aio_pika.exceptions", "aiohttp"):
    sys.modules[name] = MagicMock()  # an old Python here has no packages: what they are does not matter on import
import skydriver_scanner
for module in pkgutil.iter_modules(skydriver_scanner.__path__):
    importlib.import_module(f"skydriver_scanner.{module.name}")
skydriver_scanner.AsyncScannerSession, skydriver_scanner.ScannerSession
print("fine")
"""


def test_the_oldest_python_here_imports_every_module() -> None:
    found = next((path for name in ("3.9", "3.10", "3.11") if (path := shutil.which(f"python{name}")) and _works(path)), None)
    answer = subprocess.run(
        [found or sys.executable, "-c", _ALL_MODULES], env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)}, capture_output=True,
        timeout=600, check=False,
    )  # fmt: skip
    assert answer.stdout == b"fine\n", answer.stderr.decode()


def _works(path: str) -> bool:
    return subprocess.run([path, "-c", ""], capture_output=True, timeout=600, check=False).returncode == 0
