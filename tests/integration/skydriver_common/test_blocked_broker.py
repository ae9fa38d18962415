"""A broker with a memory alarm takes nothing: whoever sends learns it at once, and nothing piles up in the sender."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from skydriver_api.commands.client import CommandClient
from skydriver_cli.embedded import rabbitmq
from skydriver_cli.embedded.ports import choose
from skydriver_common.bus import publishing
from skydriver_common.bus.broker import connect
from skydriver_common.bus.publishing import NotSent, publish_pipelined
from skydriver_common.bus.replies import Replies
from skydriver_common.faults import TryLater
from skydriver_common.model.commands import PatchManifest
from skydriver_common.model.ids import ScanId
from skydriver_common.model.rejections import Reply
from tests.acceptance.test_broker_permissions import _control
from tests.support.waiting import until

MIB = 1024 * 1024


class Node:
    """A broker of the test's own."""

    def __init__(self, url: str, home: Path, ports: dict[str, int]) -> None:
        self.url = url
        self._home = home
        self._ports = ports

    async def memory_limit(self, limit: str) -> None:
        """Set where the memory alarm begins; one byte: it is on."""
        command = _control(self._home, self._ports, "set_vm_memory_high_watermark", "absolute", limit)
        environment = {**os.environ, "HOME": str(self._home), "ERL_EPMD_PORT": str(self._ports["epmd"])}
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=90, env=environment, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    ports = choose(list(rabbitmq.PORTS), {})
    home = tmp_path / "node"
    server = await rabbitmq.start(home, ports=ports, run_dir=tmp_path / "run", logs=tmp_path / "logs")
    yield Node(server.url, home, ports)
    await server.stop()


async def _is_refused(channel: AbstractChannel) -> bool:
    """Whether a message is refused; the broker tells that it is blocked when it receives one."""
    try:
        async with asyncio.timeout(0.2):
            await publish_pipelined(channel, aio_pika.Message(b"x"), exchange="", routing_key="nowhere")
    except NotSent:
        return True
    except TimeoutError:
        return False
    return False


async def test_while_the_broker_is_blocked_commands_are_refused_at_once_and_go_out_again_after(node: Node) -> None:
    async def nothing(command_id: str, fingerprint: str) -> Reply | None:
        return None

    bus = await connect(node.url, name="test")
    commander = CommandClient(nothing, deadline_s=60)
    await commander.open(bus)
    probe = await bus.channel()
    queue = await (await bus.channel()).declare_queue("skydriver.scan.patch-manifest")
    await queue.bind("skydriver.commands", PatchManifest.key)
    await node.memory_limit("1")
    await until(lambda: _is_refused(probe))
    connection = (await probe.get_underlay_channel()).connection
    before = publishing._UNCONFIRMED[connection].n_bytes
    command = PatchManifest(scan_id=ScanId("s"), progress={"summary": "x" * 900_000})
    for _ in range(200):
        with pytest.raises(TryLater, match="accepts no messages"):
            await commander.call(command, actor="a")
    assert publishing._UNCONFIRMED[connection].n_bytes == before

    async def is_taken() -> bool:
        return not await _is_refused(probe)

    await node.memory_limit("1GiB")
    await until(is_taken)
    asking = asyncio.create_task(commander.call(command, actor="a"))

    async def has_come() -> bool:
        return await queue.get(no_ack=True, fail=False) is not None

    await until(has_come)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    await bus.close()


async def test_replies_are_refused_while_the_broker_is_blocked(node: Node) -> None:
    async with await aio_pika.connect(node.url) as bus:

        async def connection() -> aio_pika.abc.AbstractConnection:
            return bus

        replies = Replies(connection)
        await node.memory_limit("1")

        async def is_refused() -> bool:
            try:
                await replies.send(Reply(body=b"x" * 1000), to="nowhere", correlation_id="c")
            except TryLater:
                return True
            return False

        await until(is_refused)
        await node.memory_limit("1GiB")
