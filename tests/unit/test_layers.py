"""What the contracts of the import linter cannot say: the shared library holds only what a service needs."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMON = ROOT / "libs/common"
SERVICES = ("services/api", "services/dispatcher", "services/ewms_bridge", "services/progress")


def test_every_module_of_the_shared_library_is_reachable_from_a_service() -> None:
    """What only an operator runs belongs into ``libs/ops``."""
    modules = {_name(path, COMMON): path for path in COMMON.rglob("*.py")}
    waiting = [name for folder in SERVICES for path in (ROOT / folder).rglob("*.py") for name in _imported(path, modules)]
    reached: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _imported(modules[name], modules)
    unused = {name for name in modules if name not in reached and modules[name].name != "__init__.py"}
    assert len(reached) > 50
    assert unused == set()


def _name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imported(path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """Modules of the shared library that a file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names = [each.name for each in node.names]
        else:
            continue
        yield from (name for name in names if name in modules)
