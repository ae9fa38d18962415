"""The project's own sample event: format C (2023a), every number in it made up. `python -m skydriver_sandbox.sample_event`.

It has the shape of a real realtime event (scanner contract 9), but its frames hold noise instead of detector data.
"""

import argparse
import base64
import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Any

RUN_ID = 123456
EVENT_ID = 7654321
EVENT_TIME = "2024-02-29 12:34:56.789012"
# Compressed sizes a 2021a event has, bytes; the calibration frame is the big one.
_FRAME_BYTES = {"G": 5_000, "C": 48_000, "D": 500, "Q": 4_000, "P": 1_800}


def _noise(stream: str, size: int) -> bytes:
    return hashlib.shake_256(f"skydriver sample event, frame {stream}".encode()).digest(size)


def _frame(stream: str) -> list[str]:
    content = _noise(stream, _FRAME_BYTES[stream])
    if stream == "G":
        content = f"baseline_gcd_{RUN_ID}.i3".encode() + content
    return [stream, base64.b64encode(zlib.compress(content)).decode()]


def sample_event() -> dict[str, Any]:
    """The event as an object, the same each time; about 80 kB as JSON."""
    zenith, azimuth = 1.7312, 2.2104
    return {
        "_id": hashlib.sha256(b"skydriver sample event").hexdigest()[:14],
        "service": "PFOnlineWriter",
        "varname": "realtimeEventData",
        "prio": 2,
        "time": "2024-02-29 12:35:21.402113",
        "insert_time": "2024-02-29 12:45:02.118250",
        "value": {
            "version": "2023a",
            "streams": ["neutrino"],
            "zmqnotify": {"topics": ["neutrino"]},
            "data": {
                "unique_id": f"run{RUN_ID:08d}.evt{EVENT_ID:012d}",
                "run_id": RUN_ID,
                "event_id": EVENT_ID,
                "eventtime": EVENT_TIME,
                "nch": 142,
                "npulses": 731,
                "qtot": 905.25,
                "it_trig": False,
                "neutrino": {"bdt_up": 0.21, "bdt_down": None},
                "reco": {
                    "splinempe": {
                        "zen": zenith + 0.0011, "azi": azimuth - 0.0007, "cr_zen": 0.0061, "cr_azi": 0.0058,
                        "llh": 1012.5, "rllh": 6.21, "fit_stat": 0,
                        "dir_hits_a": 612.4, "dir_hits_b": 702.9, "dir_hits_c": 811.3, "dir_hits_d": 815.8, "dir_hits_e": 816.2,
                        "track_len": 512.75, "trk_smth": 0.081, "pb_err1": None, "pb_err2": None,
                        "bs_est": 0.0031, "it_slc_cnt": 0, "it_hlc_cnt": 0,
                    },
                    "spefit2": {
                        "zen": zenith - 0.0052, "azi": azimuth + 0.0039,
                        "fit_stat": 0, "ndof": 140, "llh": 1104.1, "rllh": 7.12,
                    },
                    "l2_online_bestfit": {
                        "zen": zenith, "azi": azimuth, "cr_zen": 0.0061, "cr_azi": 0.0058, "name": "l2_online_MPEFit",
                    },
                    "energy": {"truncated": 61_250.5, "mpe_muex": 14_030.2, "spline_mue": 29_711.8, "spline_muex": 14_388.6},
                },
                "frames": [_frame(stream) for stream in _FRAME_BYTES],
            },
        },
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="skydriver_sandbox.sample_event", description="Print the project's sample event.")
    parser.add_argument("--out", type=Path, help="write it there instead")
    given = parser.parse_args()
    text = json.dumps(sample_event(), indent=1) + "\n"
    if given.out is None:
        sys.stdout.write(text)
        return 0
    try:
        given.out.write_text(text)
    except OSError as error:
        sys.stderr.write(f"sample event: {given.out}: {error.strerror}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
