"""The project's own sample event: made up, in the format of 2023a (scanner contract, section 9), always the same.

``python -m skydriver_sandbox.sample_event [--out FILE]`` prints or writes it.
"""

import argparse
import base64
import json
import random
import sys
import zlib
from pathlib import Path
from typing import Any

_STREAMS = {"G": 512, "C": 24_000, "D": 600, "Q": 6_000, "P": 3_000}
"""Frame name to its size in bytes; the content is noise: nobody may unpickle it."""


def sample_event() -> dict[str, Any]:
    """An event that points to zenith 1.2 rad, azimuth 2.5 rad; frames hold noise."""
    noise = random.Random(20231202)  # noqa: S311  (the same event every time)
    frames = [[name, base64.b64encode(zlib.compress(noise.randbytes(size))).decode()] for name, size in _STREAMS.items()]
    direction = {"zen": 1.2, "azi": 2.5, "cr_zen": 0.004, "cr_azi": 0.003}
    return {
        "_id": "65a0c0ffee0123",
        "service": "PFOnlineWriter",
        "varname": "realtimeEventData",
        "prio": 2,
        "time": "2024-01-12 08:30:15.250000",
        "insert_time": "2024-01-12 08:31:02.500000",
        "value": {
            "zmqnotify": {"topics": ["neutrino"]},
            "streams": ["neutrino"],
            "version": "2023a",
            "data": {
                "unique_id": "run00139000.evt000012345678",
                "run_id": 139000,
                "event_id": 12345678,
                "eventtime": "2024-01-12 08:29:51.125000",
                "nch": 150,
                "npulses": 720,
                "qtot": 640.5,
                "it_trig": False,
                "neutrino": {"bdt_up": 0.21, "bdt_down": None},
                "reco": {
                    "splinempe": {**direction, "llh": 1042.5, "rllh": 6.4, "fit_stat": 0},
                    "spefit2": {"zen": 1.19, "azi": 2.51, "fit_stat": 0, "ndof": 145, "llh": 1101.3, "rllh": 7.1},
                    "l2_online_bestfit": {**direction, "name": "l2_online_MPEFit"},
                    "energy": {"truncated": 61000.0, "mpe_muex": 15500.0, "spline_mue": 30200.0, "spline_muex": 15800.0},
                },
                "frames": frames,
            },
        },
    }


def main() -> None:
    """Print the event, or write it to a file."""
    parser = argparse.ArgumentParser(description="Make the sample event.")
    parser.add_argument("--out", type=Path, help="write it to this file instead of printing it")
    out: Path | None = parser.parse_args().out
    text = json.dumps(sample_event())
    if out is None:
        sys.stdout.write(text + "\n")
    else:
        out.write_text(text)


if __name__ == "__main__":
    main()
