"""Logs that operators can read and that hold no secret; metrics of one process."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from structlog.contextvars import bound_contextvars

from skydriver_common.runtime.logs import LogFormat, LogLevel, configure_logging
from skydriver_common.runtime.metrics import Metrics
from skydriver_common.runtime.redaction import REDACTED, redact_text

CANARY = "canary-4f1d"
Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Iterator[Configure]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def set_up(log_format: LogFormat = "json", log_level: LogLevel = "info") -> io.StringIO:
        out = io.StringIO()
        configure_logging(service="progress", replica="host-1", log_format=log_format, log_level=log_level, stream=out)
        return out

    yield set_up
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def only_line(out: io.StringIO) -> dict[str, Any]:
    (line,) = out.getvalue().splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


def test_a_line_is_an_event_with_fields_its_time_and_its_process(configure: Configure) -> None:
    out = configure()
    structlog.get_logger().info("scan.launched", attempt=2)
    line = only_line(out)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "scan.launched", "attempt": 2, "level": "info", "service": "progress", "replica": "host-1"}


def test_what_is_bound_around_the_work_is_on_its_lines_only(configure: Configure) -> None:
    out = configure()
    log = structlog.get_logger()
    with bound_contextvars(scan_id="s1", command_id="c1"):
        log.info("scan.launched")
    log.info("relay.idle")
    inside, outside = (json.loads(line) for line in out.getvalue().splitlines())
    assert (inside["scan_id"], inside["command_id"]) == ("s1", "c1")
    assert "scan_id" not in outside


def test_lines_of_other_libraries_go_through_the_same_chain(configure: Configure) -> None:
    out = configure()
    with bound_contextvars(scan_id="s1"):
        logging.getLogger("aiormq").warning("cannot reach %s", f"amqp://guest:{CANARY}@localhost/")
    line = only_line(out)
    assert line["event"] == f"cannot reach amqp://{REDACTED}@localhost/"
    assert (line["logger"], line["level"], line["scan_id"], line["service"]) == ("aiormq", "warning", "s1", "progress")


def test_other_libraries_are_heard_from_warning_on(configure: Configure) -> None:
    out = configure()
    logging.getLogger("aiormq").info("chatter")
    assert out.getvalue() == ""
    out = configure(log_level="debug")
    logging.getLogger("aiormq").info("wanted")
    assert only_line(out)["event"] == "wanted"


def test_lines_below_the_level_are_not_written(configure: Configure) -> None:
    out = configure(log_level="warning")
    structlog.get_logger().info("scan.launched")
    assert out.getvalue() == ""


def test_the_process_is_named_on_lines_from_other_threads(configure: Configure) -> None:
    out = configure()
    thread = threading.Thread(target=lambda: structlog.get_logger().warning("thread.spoke"))
    thread.start()
    thread.join()
    assert only_line(out)["service"] == "progress"


def fail_with_a_secret_in_a_local_variable() -> None:
    password = CANARY + "-local"
    raise ValueError("the password has the wrong length" if password else "")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("logger", ["ours", "another library's"])
def test_a_traceback_shows_no_local_variables(configure: Configure, log_format: LogFormat, logger: str) -> None:
    out = configure(log_format=log_format)
    try:
        fail_with_a_secret_in_a_local_variable()
    except ValueError:
        if logger == "ours":
            structlog.get_logger().exception("loop.failed", loop="relay")
        else:
            logging.getLogger("some.library").exception("it failed")
    text = out.getvalue()
    assert "fail_with_a_secret_in_a_local_variable" in text
    assert "ValueError: the password has the wrong length" in text
    assert CANARY not in text


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_password_in_the_text_of_an_exception_is_redacted(configure: Configure, log_format: LogFormat) -> None:
    out = configure(log_format=log_format)
    try:
        raise ConnectionError(f"cannot connect to postgresql://sky:{CANARY}@db/x")
    except ConnectionError as error:
        structlog.get_logger().exception("start.failed", error=error)
    assert "cannot connect to postgresql://[redacted]@db/x" in out.getvalue()
    assert CANARY not in out.getvalue()


@pytest.mark.parametrize(
    "fields",
    [
        {"token": CANARY},
        {"user_token": CANARY},
        {"ewms_client_secret": CANARY},
        {"password": CANARY},
        {"headers": {"Authorization": CANARY, "Accept": "x"}},
        {"tries": [{"deep": {"api_key": CANARY}}]},
        {"credentials": {"user": CANARY}},
        {"tokens": (CANARY.encode(),)},
        {"url": f"https://x.example/f?X-Amz-Signature={CANARY}&X-Amz-Date=1"},
        {"url": f"https://user:{CANARY}@x.example"},
        {"header": f"Bearer {CANARY}"},
        {"error": RuntimeError(f"amqp://guest:{CANARY}@mq")},
        {"text": f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----"},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_secrets_are_redacted_by_name_and_by_look(configure: Configure, fields: dict[str, Any]) -> None:
    out = configure()
    structlog.get_logger().info("ewms.called", **fields)
    assert CANARY not in out.getvalue()
    assert REDACTED in out.getvalue()


def test_redaction_leaves_the_rest_as_it_is(configure: Configure) -> None:
    out = configure()
    structlog.get_logger().info(
        "ewms.called",
        n_tokens=3,
        url="https://x.example/v1?page=2",
        mail="a@b.example",
        parts=("a", 1, None),
        ratio=float("nan"),
    )
    line = only_line(out)
    assert (line["n_tokens"], line["url"], line["mail"]) == (3, "https://x.example/v1?page=2", "a@b.example")
    assert (line["parts"], line["ratio"]) == (["a", 1, None], None)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("amqp://a:p@ss@host/v and http://b:c@d/", f"amqp://{REDACTED}@host/v and http://{REDACTED}@d/"),
        ("GET /x?access_token=abc&limit=1", f"GET /x?access_token={REDACTED}&limit=1"),
        ("got eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln, refused", f"got {REDACTED}, refused"),
        ("authorization: Basic dXNlcjpwYXNz", f"authorization: Basic {REDACTED}"),
        ("http://host/path@2", "http://host/path@2"),
        ("the basic idea, the bearer of news", "the basic idea, the bearer of news"),
    ],
)
def test_texts_lose_their_secrets_and_nothing_else(text: str, clean: str) -> None:
    assert redact_text(text) == clean


def test_what_json_cannot_hold_is_written_as_text(configure: Configure) -> None:
    out = configure()
    structlog.get_logger().info("odd.values", thing=object, numbers={1: {2}}, blob=b"\xff")
    assert only_line(out)["numbers"] == {"1": [2]}


FORGED = "ok\x1b]0;pwned\x07\x1b[2K\r\n2026-01-01T00:00:00Z [error] all scans deleted\x9b\u202e\u2028"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_text_from_outside_neither_adds_a_line_nor_steers_the_terminal(configure: Configure, log_format: LogFormat) -> None:
    out = configure(log_format=log_format)
    structlog.get_logger().info("report.refused", reason=FORGED, nested={"why": [FORGED]}, **{FORGED: 1})
    structlog.get_logger().info(FORGED)
    logging.getLogger("aiormq").warning("closed: %s", FORGED)
    text = out.getvalue()
    assert text.count("\n") == len(text.splitlines()) == 3
    assert not set("\x1b\x07\r\x9b\u202e\u2028") & set(text)


def test_no_line_of_a_traceback_looks_like_a_line_of_the_log(configure: Configure) -> None:
    out = configure(log_format="console")
    try:
        raise ValueError(FORGED)
    except ValueError:
        structlog.get_logger().exception("loop.failed", loop="relay")
    first, *rest = out.getvalue().splitlines()
    assert "loop.failed" in first
    assert rest
    assert all(line.startswith("    ") for line in rest)
    assert "\x1b" not in out.getvalue()


def test_a_log_line_of_json_keeps_every_character(configure: Configure) -> None:
    out = configure()
    structlog.get_logger().info("report.refused", reason=FORGED)
    assert only_line(out)["reason"] == FORGED


def test_metrics_count_what_they_are_told() -> None:
    metrics = Metrics()
    metrics.command_handled("scan.request", "done", 0.02)
    metrics.command_handled("scan.request", "refused", 0.001)
    metrics.events_appended("ScanRequested", 2)
    metrics.loop_failed("relay")
    metrics.relay_lag(1.5)

    def value(name: str, **labels: str) -> float | None:
        return metrics.registry.get_sample_value(name, labels)

    assert value("skydriver_commands_total", command="scan.request", outcome="done") == 1
    assert value("skydriver_commands_total", command="scan.request", outcome="refused") == 1
    assert value("skydriver_command_seconds_count", command="scan.request") == 2
    assert value("skydriver_command_seconds_bucket", command="scan.request", le="0.025") == 2
    assert value("skydriver_command_duration_seconds_count", command="scan.request") == 2
    assert value("skydriver_events_appended_total", type="ScanRequested") == 2
    assert value("skydriver_loop_failures_total", loop="relay") == 1
    assert value("skydriver_relay_lag_seconds") == 1.5
    assert b"process_resident_memory_bytes" in metrics.render()


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.loop_failed("relay")
    assert other.registry.get_sample_value("skydriver_loop_failures_total", {"loop": "relay"}) is None
