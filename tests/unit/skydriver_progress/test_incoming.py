"""Which reports say finished, told by their bytes before they are parsed: no such report may be passed over."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skydriver_common.model.ids import new_scan_id
from skydriver_progress.incoming import IncomingReport, ReceivedMessage
from skydriver_progress.messages import Envelope
from tests.support.scanner_bus import a_progress

SCAN_ID = new_scan_id()


def _incoming(plain: bytes) -> IncomingReport:
    message = ReceivedMessage(f"progress.{SCAN_ID}", {}, plain, None, None, None, len(plain), 1)
    return IncomingReport(message, "progress", SCAN_ID, Envelope("progress", SCAN_ID, "p", 1, plain, "t"))


@pytest.mark.parametrize(
    ("written", "is_finished"),
    [
        (b'"finished":true', True),
        (b'"finished" :\n\t true', True),
        (b'"fini\\u0073hed": true', True),
        (b'"finished": false', False),
        (b'"finishe\\u0064": false', False),
    ],
)
def test_however_it_is_written(written: bytes, is_finished: bool) -> None:
    plain = json.dumps(a_progress(1, finished=False)).encode()
    assert b'"finished": false' in plain
    assert _incoming(plain.replace(b'"finished": false', written)).is_finished() is is_finished


@given(st.booleans(), st.integers(0, 3), st.booleans())
def test_the_word_elsewhere_decides_nothing(is_finished: bool, count: int, elsewhere: bool) -> None:
    content = a_progress(1, finished=is_finished)
    content["progress"]["tallies"] |= {"finished": elsewhere, "more": [{"finished": elsewhere}] * count}
    item = _incoming(json.dumps(content).encode())
    assert item.is_finished() is is_finished
    if not (is_finished or elsewhere):
        assert item.report is None  # not even parsed
