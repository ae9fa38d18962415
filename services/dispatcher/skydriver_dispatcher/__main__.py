"""``python -m skydriver_dispatcher``."""

from skydriver_dispatcher.main import main

main()
