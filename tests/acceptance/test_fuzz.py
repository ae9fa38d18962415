"""Whatever the OpenAPI document allows, and much that it does not: never a 5xx, never an answer that contradicts the document,
never a hang. ``make fuzz`` runs longer (SKYDRIVER_TEST_FUZZ_EXAMPLES: cases per route at most).
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import Running
from tests.acceptance.rest import SYSTEM_ROLE, USER_ROLE, request_scan, token

EXAMPLES = int(os.environ.get("SKYDRIVER_TEST_FUZZ_EXAMPLES", "60"))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
LEAST_CASES = 1500
"""Of each role."""


@pytest.mark.timeout(0 if EXAMPLES > 100 else 1800)
@pytest.mark.parametrize("role", ["user", "system"])
def test_the_server_keeps_to_its_document(quiet_system: Running, tmp_path: Path, role: str) -> None:
    scan = request_scan(quiet_system)["scan_id"]
    bearer = token(quiet_system, resource_access=USER_ROLE if role == "user" else SYSTEM_ROLE)
    config = tmp_path / "schemathesis.toml"
    config.write_text(f'parameters = {{ scan_id = "{scan}" }}\n')
    done = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run",
            f"{quiet_system.connection['url']}/openapi.json", "--header", f"Authorization: Bearer {bearer}",
            "--checks", CHECKS, "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", "1",
            "--request-timeout", "60", "--continue-on-failure", "--no-shrink", "--generation-database", "none",
            "--suppress-health-check", "all", "--no-color",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    counted = re.search(r"(\d+) generated", done.stdout)
    assert counted is not None, done.stdout
    assert int(counted[1]) >= LEAST_CASES
