"""Prometheus and its promtool, of the Debian package; what needs them is skipped where they are not installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

needs_prometheus = pytest.mark.skipif(
    shutil.which("promtool") is None or shutil.which("prometheus") is None,
    reason="NOT RUN: Prometheus is not installed (the package prometheus)",
)


def promtool(*words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run promtool in this folder."""
    return subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=600, check=False)
