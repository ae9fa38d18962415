"""A gateway under bodies and answers of hostile sizes stays below the memory of its pod, and gives back what it needed."""

import json
import random
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from tests.acceptance.conftest import Running, sample_event, scan_request
from tests.acceptance.gateways import Gateway, another_gateway
from tests.acceptance.rest import ok
from tests.support.waiting import wait_until

MIB = 1024 * 1024
POD = Path(__file__).parents[2] / "deploy/kubernetes/base/services/api.yaml"


def _pod_limit() -> int:
    found = re.search(r"limits: \{memory: (\d+)Gi", POD.read_text())
    assert found is not None
    return int(found[1]) * 1024 * MIB


def _resident(gateway: Gateway, which: str) -> int:
    """Bytes of physical memory. which: VmRSS (now) or VmHWM (at most so far)."""
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    found = re.search(rf"{which}:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def test_large_results_and_events_stay_below_the_pods_limit_and_memory_comes_back(
    quiet_system: Running, tmp_path: Path
) -> None:
    scans = [ok(quiet_system.call("POST", "/scan", body=scan_request(sample_event())))["scan_id"] for _ in range(3)]
    [key_file] = (quiet_system.data_dir / "keys").glob("*jwks*")
    texts = [random.Random(number).randbytes(45 * MIB).hex().encode() for number in range(2)]
    users, scanners = ({"Authorization": f"Bearer {quiet_system.connection[name]}"} for name in ("user_token", "system_token"))

    with another_gateway(quiet_system, tmp_path / "log", SKYDRIVER_AUTH_JWKS_FILE=str(key_file)) as gateway:

        def again(method: str, path: str, headers: dict[str, str], body: bytes | None = None) -> int:
            """The length of the answer; what is told to come later does."""

            def served() -> requests.Response | None:
                answer = requests.request(method, gateway.url + path, headers=headers, data=body, timeout=120)
                return None if answer.status_code == 503 else answer

            answer = wait_until(served, 120, f"{method} {path} is served", poll_s=0.5)
            assert answer.status_code == 200, answer.text[:300]
            return len(answer.content)

        def put(number: int) -> int:
            body = b'{"is_final": false, "skyscan_result": {"x": "%b"}}' % texts[number]
            return again("PUT", f"/scan/{scans[number]}/result", scanners, body)

        with ThreadPoolExecutor(8) as clients:
            assert min(clients.map(put, range(2))) > 90 * MIB
            reads = [clients.submit(again, "GET", f"/scan/{scans[number % 2]}/result", users) for number in range(3)]
            writes = [clients.submit(put, number) for number in range(2)]
            assert min(one.result() for one in reads + writes) > 90 * MIB
            event = b'{"x": "%b"}' % texts[0][: 12 * MIB]
            request = scan_request({"a": 1})
            del request["event_i3live_json"]
            head = json.dumps(request).encode()[:-1]
            body = b'%b, "event_i3live_json": %b}' % (head, event)
            assert min(clients.map(lambda _: again("POST", "/scan", users, body), range(12))) > 0
        peak = _resident(gateway, "VmHWM")
        assert peak < _pod_limit(), f"{peak / MIB:.0f} MiB"
        wait_until(lambda: _resident(gateway, "VmRSS") < 400 * MIB, 60, "the memory comes back")
        print(f"at most {peak / MIB:.0f} MiB, afterwards {_resident(gateway, 'VmRSS') / MIB:.0f} MiB")
