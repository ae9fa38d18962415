"""``python -m skydriver_ewms``."""

from skydriver_ewms.main import main

main()
