"""``python -m skydriver_ewms_bridge``."""

from skydriver_ewms_bridge.main import main

main()
