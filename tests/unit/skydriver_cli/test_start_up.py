"""``skydriver --help`` starts quickly: what takes long to import is imported by the commands that use it."""

import json
import subprocess
import sys

import pytest

HEAVY = {
    "aio_pika",
    "aiohttp",
    "asyncpg",
    "faststream",
    "numpy",
    "psycopg",
    "pydantic_settings",
    "skydriver_common",
    "skydriver_ops",
}
MAX_MODULES = 700
"""Modules of Python, typer and rich included; 375 to 470 when this was written."""

_PROGRAM = """
import json, sys
from skydriver_cli.app import app
try:
    app(sys.argv[1:], standalone_mode=True)
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], ["submit", "--help"], ["up", "--help"], ["migrate", "--help"]])
def test_help_imports_no_driver_and_no_library_of_the_services(words: list[str]) -> None:
    ran = subprocess.run([sys.executable, "-c", _PROGRAM, *words], capture_output=True, text=True, timeout=600, check=True)
    modules = set(json.loads(ran.stderr))
    assert "Usage" in ran.stdout
    assert not HEAVY & {name.partition(".")[0] for name in modules}
    assert len(modules) < MAX_MODULES
