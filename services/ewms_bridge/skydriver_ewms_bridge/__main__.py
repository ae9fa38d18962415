"""``python -m skydriver_ewms_bridge``: run the service. With ``settings`` or ``asyncapi``: print what it reads or consumes."""

import sys

match sys.argv[1:]:
    case ["settings"]:
        from skydriver_common.runtime.settings_listing import print_settings
        from skydriver_ewms_bridge.settings import BridgeSettings

        print_settings(BridgeSettings)
    case ["asyncapi"]:
        from skydriver_common.bus.asyncapi import describe_consumers, print_document
        from skydriver_ewms_bridge import consumers

        print_document(describe_consumers(consumers.register))
    case _:
        from skydriver_ewms_bridge.main import main

        main()
