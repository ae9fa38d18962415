"""What clients do wrong with HTTP itself: no line of the log above info, a count, and an answer that repeats nothing of it."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.support.gateway import FAULTS, LocalGateway, local_gateway
from tests.support.waiting import until

SECRET = "eyJhbGciSECRET"
HEAD = "POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\n"


@pytest.fixture
async def gateway(database: str, clean_bus: str) -> AsyncIterator[LocalGateway]:
    async with local_gateway(database, clean_bus) as gateway:
        yield gateway


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[EventDict]]:
    """Lines of our own log; that other libraries wrote no error is looked at in the end."""
    FAULTS.clear()
    with capture_logs() as captured:
        yield captured
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


async def counted() -> int:
    return sum(FAULTS.values())


def above_info(lines: list[EventDict]) -> list[EventDict]:
    return [line for line in lines if line["log_level"] not in ("debug", "info")]


async def told(gateway: LocalGateway, request: bytes) -> bytes:
    """What comes back until the server closes."""
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(request)
    async with asyncio.timeout(120):
        answer = await reader.read()
    writer.close()
    return answer


def body_of(answer: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(answer.partition(b"\r\n\r\n")[2])
    return found


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("framing", ["plain", "chunked"])
@pytest.mark.parametrize("path", ["/scan", "/scans/find"])
async def test_a_client_that_hangs_up_in_the_middle_of_a_body_is_counted_and_no_error(
    gateway: LocalGateway, lines: list[EventDict], path: str, framing: str, how: str
) -> None:
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    head = HEAD.format(path=path) + "Expect: 100-continue\r\n"
    length = 2000000 if path == "/scan" else 2000
    head += f"Content-Length: {length}\r\n\r\n" if framing == "plain" else "Transfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode())
    assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
    writer.write(b'{"a": ' if framing == "plain" else b'6\r\n{"a": \r\n')
    await writer.drain()
    if how == "RST":
        sock: socket.socket = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
    await until(counted)
    assert FAULTS == {"abort": 1}
    assert above_info(lines) == []
    assert not any("exc_info" in line for line in lines)
    assert len([line for line in lines if line["event"] == "client.fault"]) == 1


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer {SECRET}\r\n\r\n", "malformed"),
        (f"GET /?{SECRET} HTTP/9.9.9\r\n\r\n", "malformed"),
        (f"{SECRET}\r\n\r\n", "malformed"),
        (f"GET / HTTP/1.1\r\nHost: x\r\n{SECRET}\r\n\r\n", "malformed"),
        (f"POST /scan HTTP/1.1\r\nHost: x\r\nContent-Length: {SECRET}\r\n\r\n", "malformed"),
        (f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {SECRET * 2000}\r\n\r\n", "too-long"),
        (f"GET /{SECRET * 2000} HTTP/1.1\r\nHost: x\r\n\r\n", "too-long"),
    ],
    ids=["space before the colon", "version", "no request line", "no colon", "length", "long header", "long path"],
)
async def test_what_is_no_http_is_answered_without_a_byte_of_it(
    gateway: LocalGateway, lines: list[EventDict], request_: str, kind: str
) -> None:
    answer = await told(gateway, request_.encode())
    assert answer.split()[1] == b"400"
    assert b"SECRET" not in answer
    assert set(body_of(answer)) == {"error", "reason", "message", "code"}
    assert {kind: 1} == FAULTS
    assert above_info(lines) == []
    assert "SECRET" not in str(lines)


@pytest.mark.parametrize(
    ("header", "content", "kind"),
    [("br", b'{"a": 1}', None), ("gzip", b'{"a": 1}', "body"), ("deflate", b'{"a": 1}', "body")],
)
async def test_an_encoding_that_is_not_known_or_not_kept_is_no_error_line(
    gateway: LocalGateway, lines: list[EventDict], header: str, content: bytes, kind: str | None
) -> None:
    head = (
        HEAD.format(path="/scan") + f"Content-Encoding: {header}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    answer = await told(gateway, head.encode() + content)
    assert int(answer.split()[1]) in (400, 415)
    assert set(body_of(answer)) == {"error", "reason", "message", "code"}
    assert sum(FAULTS.values()) == 1
    assert kind is None or {kind: 1} == FAULTS
    assert above_info(lines) == []


async def test_a_broken_chunk_is_a_wrong_input(gateway: LocalGateway, lines: list[EventDict]) -> None:
    head = HEAD.format(path="/scan") + "Transfer-Encoding: chunked\r\n\r\n"
    answer = await told(gateway, head.encode() + b'6\r\n{"a": \r\nxyz\r\n')
    assert answer.split()[1] == b"400"
    assert sum(FAULTS.values()) == 1
    assert above_info(lines) == []


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("POST /scan HTTP/1.1\r\nHost: x\r\nContent-Length: 1000", 401),
        ("PUT /scan/x/result HTTP/1.1\r\nHost: x\r\nContent-Length: 1000", 401),
        ("PUT /scan/x/result HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1000", 404),
        ("POST /nowhere HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1000", 404),
        ("PUT /scan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1000", 405),
        ("POST /scan HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 99000000", 413),
        ("POST /scans/find HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\nContent-Length: 1100000", 413),
    ],
)
async def test_a_client_that_waits_is_refused_before_it_is_asked_for_its_body(
    gateway: LocalGateway, request_: str, status: int
) -> None:
    reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
    writer.write(f"{request_}\r\nExpect: 100-continue\r\n\r\n".encode())
    async with asyncio.timeout(120):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in head.lower()  # the body may come all the same: nothing else can be read here
    if status == 405:
        assert b"allow: post" in head.lower()
    writer.close()


async def test_a_client_that_waits_is_asked_when_nothing_speaks_against_it(gateway: LocalGateway) -> None:
    for _ in range(2):
        reader, writer = await asyncio.open_connection(gateway.host, gateway.port)
        for _ in range(2):  # the connection stays good
            writer.write((HEAD.format(path="/scans/find") + "Content-Length: 14\r\nExpect: 100-Continue\r\n\r\n").encode())
            async with asyncio.timeout(120):
                assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
                writer.write(b'{"filter": {}}')
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
                assert await reader.readexactly(16) == b'{"manifests":[]}'
        writer.close()


async def test_another_expectation_is_refused_as_every_error_is(gateway: LocalGateway) -> None:
    head = HEAD.format(path="/scan") + f"Content-Length: 0\r\nConnection: close\r\nExpect: {SECRET}\r\n\r\n"
    answer = await told(gateway, head.encode())
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b"SECRET" not in answer
    assert body_of(answer)["code"] == 417
