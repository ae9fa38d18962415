"""What a scanner says of its failure, and what is refused of what comes in its name, as users and operators see it."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import aio_pika

from skydriver_scanner import protocol
from tests.acceptance.conftest import Running
from tests.acceptance.rest import SYSTEM_ROLE, request_scan, token
from tests.support.waiting import wait_until


def _publish(system: Running, *messages: protocol.PackedMessage) -> None:
    async def publish() -> None:
        async with await aio_pika.connect(system.connection["amqp_url"]) as connection:
            exchange = await (await connection.channel()).get_exchange(protocol.EXCHANGE, ensure=False)
            for packed in messages:
                await exchange.publish(aio_pika.Message(packed.body, headers=dict(packed.headers)), packed.routing_key)

    asyncio.run(publish())


def _letters(system: Running) -> list[dict[str, Any]]:
    environment = {
        "SKYDRIVER_AMQP_URL": system.connection["amqp_url"],
        "SKYDRIVER_DATABASE_URL": system.connection["database_url"],
    }
    ran = subprocess.run(
        [sys.executable, "-m", "skydriver_cli.app", "dead", "list", "--json"], env=environment, capture_output=True, timeout=600
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_a_failure_is_in_the_status_and_a_foreign_report_with_the_dead_letters(quiet_system: Running) -> None:
    scan_id, other = (request_scan(quiet_system)["scan_id"] for _ in range(2))
    mine = token(quiet_system, scan_id=scan_id, sub="scan", resource_access=SYSTEM_ROLE)
    failure = {"reason": "Traceback\nValueError: no GCD file", "log_tail": "the last line"}
    _publish(
        quiet_system,
        protocol.pack("failure", scan_id, failure, token=mine, producer="p", sequence=1),
        protocol.pack("progress", other, {"scan_metadata": {"a": 1}}, token=mine, producer="p", sequence=2),
    )

    def problems() -> list[str]:
        found = quiet_system.get(f"/scan/{scan_id}/status")["problems"]
        return [problem["text"] for problem in found if problem["code"] == "scanner-reported-failure"]

    wait_until(lambda: problems() != [], 60, "the failure is in the status")
    assert problems() == ["The scanner server reported a failure: ValueError: no GCD file"]
    wait_until(
        lambda: any(letter["key"] == f"progress.{other}" for letter in _letters(quiet_system)), 15, "it lies with the dead"
    )
    [letter] = [letter for letter in _letters(quiet_system) if letter["key"] == f"progress.{other}"]
    assert letter["reason"] == "token-foreign: the token is not for this scan"
    assert letter["queue"] == "skydriver.scanner.progress"
    history = quiet_system.get(f"/scan/{other}/events?limit=100")["events"]
    assert history[-1]["type"] == "scan.report-refused"
    assert quiet_system.get(f"/scan/{other}/manifest")["scan_metadata"] is None
