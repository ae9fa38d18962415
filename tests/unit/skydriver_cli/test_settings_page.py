"""What can be set is listed, and the page in docs/ says the same as the classes."""

import json
from pathlib import Path

from typer.testing import CliRunner

from skydriver_cli.app import app
from skydriver_cli.settings_command import markdown, settings
from skydriver_common.runtime.settings import KNOWN_NAMES

PAGE = Path(__file__).parents[3] / "docs/operators/configuration.md"


def test_the_page_lists_what_the_classes_say() -> None:
    assert PAGE.read_text() == markdown(), "make docs"


def test_every_setting_of_a_service_is_known_to_the_others() -> None:
    assert {one.name for one in settings()} <= KNOWN_NAMES


def test_a_service_can_be_chosen() -> None:
    printed = CliRunner().invoke(app, ["settings", "dispatcher", "--json"])
    services = {json.loads(line)["service"] for line in printed.output.splitlines()}
    assert services == {"every service", "dispatcher"}
