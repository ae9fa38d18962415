"""What the pages for users say is what the gateway takes: fields, examples, operators, codes."""

import json
import re
from pathlib import Path

from skydriver_api.find.filters import FIELD_OPERATORS, LOGICAL
from skydriver_api.find.search import find_query
from skydriver_api.payloads.requests import ScanRequestBody, parse_find, parse_scan_request
from skydriver_common.model.problem_codes import ProblemCode

PAGES = Path(__file__).parents[3] / "docs/users"


def test_every_field_of_a_request_is_explained() -> None:
    page = (PAGES / "submit-and-watch.md").read_text()
    assert [name for name in ScanRequestBody.model_fields if f"`{name}`" not in page] == []


def test_the_first_request_is_accepted() -> None:
    body = (PAGES / "getting-started.md").read_text().split("<<JSON\n")[1].split("\nJSON")[0]
    parsed = parse_scan_request(body.replace("$(cat event.json)", '{"a": 1}').encode(), clusters={"osg": None})
    assert parsed.docker_tag == "latest"


def test_the_example_of_a_search_is_accepted_and_every_operator_is_listed() -> None:
    page = (PAGES / "find.md").read_text()
    example = parse_find(page.split("```json\n")[1].split("```")[0].encode())
    assert find_query(example.filter, limit=example.limit, projection=example.manifest_projection)
    listed = set(re.findall(r"`(\$\w+)`", page))
    assert listed == (FIELD_OPERATORS | LOGICAL) - {"$comment"}


def test_the_body_of_errors_is_as_shown() -> None:
    example = json.loads((PAGES / "errors.md").read_text().split("```json\n")[1].split("```")[0])
    assert set(example) == {"code", "error", "reason", "message"}


def test_codes_that_users_act_on_are_codes() -> None:
    table = (PAGES / "states-and-problems.md").read_text().split("| what to do as a user |")[1]
    named = set(re.findall(r"`([a-z-]+)`", table))
    assert len(named) > 10
    assert named <= set(ProblemCode)
