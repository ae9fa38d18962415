"""``python -m skydriver_dispatcher``: run the service. With ``settings`` or ``asyncapi``: print what it reads or consumes."""

import sys

match sys.argv[1:]:
    case ["settings"]:
        from skydriver_common.runtime.settings_listing import print_settings
        from skydriver_dispatcher.settings import DispatcherSettings

        print_settings(DispatcherSettings)
    case ["asyncapi"]:
        from skydriver_common.bus.asyncapi import describe_consumers, print_document
        from skydriver_dispatcher import consumers

        print_document(describe_consumers(consumers.register))
    case _:
        from skydriver_dispatcher.main import main

        main()
