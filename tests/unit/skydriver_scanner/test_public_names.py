"""What scanners import, by new and old names."""

import pytest

import skydriver_scanner
from skydriver_scanner import errors, protocol, stop_signals, wire


@pytest.mark.parametrize("name", skydriver_scanner.__all__)
def test_each_public_name_leads_somewhere(name: str) -> None:
    assert getattr(skydriver_scanner, name).__name__ == name


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("LeftMessage", errors.UndeliveredMessage),
        ("MessageRefused", protocol.MessageRejected),
        ("ScannerProblem", errors.ScannerError),
        ("SettingsProblem", errors.SettingsError),
        ("Stop", stop_signals.StopSignal),
    ],
)
def test_old_names_are_the_new_ones(old: str, new: type) -> None:
    assert getattr(skydriver_scanner, old) is new


def test_the_old_module_of_the_protocol_is_the_new_one() -> None:
    assert wire.PROGRESS == protocol.PROGRESS
    assert wire.MessageRefused is protocol.MessageRejected
    assert (wire.Packed, wire.Received) == (protocol.PackedMessage, protocol.UnpackedMessage)
    assert wire.number_of is protocol.parse_sequence
