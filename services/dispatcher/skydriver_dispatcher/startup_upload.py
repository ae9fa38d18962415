"""The sidecar that carries ``startup.json`` from the scanner to where its workers fetch it. Source: REST contract 9.5.

``python -m skydriver_dispatcher.startup_upload <startup.json> <startup-upload.json>``

Standard library only: it runs in 10 MB beside the scanner. It waits for the file as long as the scanner runs, uploads it by the
presigned request, looks at the answer and repeats until it is a success; then it idles, since the pod ends with the scanner.
"""

import json
import signal
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

_POLL_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_TIMEOUT_S = 60.0


def main(startup: Path, upload: Path) -> None:
    """Wait, upload, idle until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    content = wait_for_whole(startup)
    _say(f"{startup.name} is there, {len(content)} bytes")
    upload_until_done(content, upload)
    _say("uploaded")
    while True:
        signal.pause()


def wait_for_whole(path: Path) -> bytes:
    """The file's bytes as soon as they are one whole JSON document: the scanner may still be writing it."""
    while True:
        try:
            content = path.read_bytes()
            json.loads(content)
        except (OSError, ValueError):
            time.sleep(_POLL_S)
        else:
            return content


def upload_until_done(content: bytes, upload: Path) -> None:
    """Send the bytes until the store answers with success. The address is read anew each time and never printed."""
    pause_s = _FIRST_PAUSE_S
    while (problem := _try(content, upload)) is not None:
        _say(f"the upload failed, again in {pause_s:g} s: {problem}")
        time.sleep(pause_s)
        pause_s = min(_LONGEST_PAUSE_S, pause_s * 2)


def _try(content: bytes, upload: Path) -> str | None:
    try:
        wanted = json.loads(upload.read_text())
        if not str(wanted["url"]).startswith(("https://", "http://")):
            return "the address is not an HTTP URL"
        request = urllib.request.Request(wanted["url"], data=content, method=wanted["method"])  # noqa: S310  (checked above)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
            return None
    except urllib.error.HTTPError as error:
        return f"the store answers {error.code}"
    except (OSError, ValueError, KeyError) as error:
        return type(error).__name__


def _say(text: str) -> None:
    print(f"startup-upload: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
