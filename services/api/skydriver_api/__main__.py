"""``python -m skydriver_api``."""

from skydriver_api.main import main

main()
