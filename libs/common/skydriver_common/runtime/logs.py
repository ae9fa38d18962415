"""Logs of a process.

A log line is a dotted event name and fields: `logger.info("scan.launched", attempt=2)`. `service` and `replica` are on every
line; middlewares bind `scan_id`, `command_id` and `correlation_id` around a piece of work. Lines of other libraries go through
the same chain. `warning`: someone may look; `error`: someone must. Bodies are never logged. A text from outside cannot add a line
or steer the terminal that shows it: in JSON it is escaped, on a console it is one line of visible marks, and tracebacks are indented.
"""

import logging
import sys
from typing import Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from skydriver_common.runtime.redaction import redact_event
from skydriver_common.visible_text import visible, visible_json, visible_lines

LogFormat = Literal["json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

_LEVELS: dict[LogLevel, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logging(
    *, service: str, replica: str, log_format: LogFormat, log_level: LogLevel, stream: TextIO | None = None
) -> None:
    """Send all logs of this process, ours and other libraries', to `stream` (default: stderr), one line each.

    Other libraries are heard from WARNING on (INFO when our level is debug): their chatter is not in our event names.
    Calling it again replaces what was set up before.
    """
    out = stream if stream is not None else sys.stderr
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _process_identity(service, replica),
        # Plain text: structlog's own renderers show local variables, and those hold tokens.
        structlog.processors.format_exc_info,
        redact_event,
    ]
    renderer = _renderer(log_format, colors=out.isatty())
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[log_level]),
        logger_factory=structlog.PrintLoggerFactory(file=out),
        cache_logger_on_first_use=False,  # a logger made at import must obey what is configured later
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO if log_level == "debug" else max(logging.WARNING, _LEVELS[log_level]))


def _process_identity(service: str, replica: str) -> Processor:
    def add(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        # Not in a context variable: threads and callbacks of foreign libraries start with an empty context.
        event["service"] = service
        event["replica"] = replica
        return event

    return add


def _renderer(log_format: LogFormat, *, colors: bool) -> list[Processor]:
    if log_format == "console":
        console = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback)
        return [_make_visible, console]
    return [structlog.processors.JSONRenderer(serializer=_to_json)]


def _to_json(event: object, **_: object) -> str:
    return visible_json(orjson.dumps(event, default=str, option=orjson.OPT_NON_STR_KEYS).decode())


def _make_visible(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make what came from outside harmless on a console. Values that are not strings are shown by their repr, which escapes."""
    return {visible(str(key)): _make_value_visible(str(key), value) for key, value in event.items()}


def _make_value_visible(key: str, value: object) -> object:
    if not isinstance(value, str):
        return value
    if key in ("exception", "stack"):
        return "\n".join(f"    {line}" for line in visible_lines(value))  # no line of it begins like a line of the log
    return visible(value)
