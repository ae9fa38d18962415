"""``python -m skydriver_progress``."""

from skydriver_progress.main import main

main()
