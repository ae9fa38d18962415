"""Stored texts with a type: every problem code is documented, and what a newer release stored is read and written as it is."""

from skydriver_common.model import event_codec
from skydriver_common.model.events import Event, ScannerStageChanged
from skydriver_common.model.problem_codes import MEANINGS, ProblemCode
from skydriver_common.model.scan import Launch
from skydriver_common.model.stages import LaunchState, ScannerStage


def test_every_problem_code_has_a_meaning_and_a_name_that_spells_it() -> None:
    assert set(MEANINGS) == set(ProblemCode)
    for code, meaning in MEANINGS.items():
        assert code.name == code.value.upper().replace("-", "_")
        assert meaning.text.endswith(".")
        assert "\n" not in meaning.text


def test_a_stored_stage_is_read_as_a_member() -> None:
    event: Event = event_codec.parse_event(ScannerStageChanged.type, 1, b'{"stage":"pending","code":"","text":""}')
    assert isinstance(event, ScannerStageChanged)
    assert event.stage is ScannerStage.PENDING
    launch = event_codec.read_as(Launch, {"state": "launched", "stage": ""})
    assert (launch.state, launch.stage) == (LaunchState.LAUNCHED, ScannerStage.UNKNOWN)


def test_a_stage_of_a_newer_release_keeps_its_spelling_and_equals_no_other() -> None:
    stored = b'{"stage":"restoring","code":"","text":""}'
    event = event_codec.parse_event(ScannerStageChanged.type, 1, stored)
    assert isinstance(event, ScannerStageChanged)
    assert event.stage == "restoring"
    assert event.stage not in list(ScannerStage)
    assert event_codec.encode_event(event) == stored
