"""``python -m skydriver_progress``: run the service. With ``settings`` or ``asyncapi``: print what it reads or consumes."""

import sys

match sys.argv[1:]:
    case ["settings"]:
        from skydriver_common.runtime.settings_listing import print_settings
        from skydriver_progress.settings import ProgressSettings

        print_settings(ProgressSettings)
    case ["asyncapi"]:
        from skydriver_common.bus.asyncapi import print_document
        from skydriver_progress.asyncapi_stubs import document

        print_document(document())
    case _:
        from skydriver_progress.main import main

        main()
