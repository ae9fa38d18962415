"""The lightest scanner server there can be: it says that it was started, and lives until it is told to end.

Run by path with ``python -I -S``, in the scan's folder, which gets:
``starts``: a line per start, with the word ``twin`` when another one of the same scan was alive;
``end``: a FIFO; whoever opens it for writing ends the process.
"""

import fcntl
import os


def main() -> None:
    """Say it, and wait."""
    alive = os.open("alive.lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        word = "alone"
    except BlockingIOError:
        word = "twin"
    starts = os.open("starts", os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    os.write(starts, f"{os.getpid()} {word}\n".encode())
    os.close(starts)
    if not os.path.exists("end"):
        os.mkfifo("end", 0o600)
    os.open("end", os.O_RDONLY)


main()
