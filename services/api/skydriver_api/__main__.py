"""``python -m skydriver_api``: run the service. With ``settings``: print what it reads."""

import sys

match sys.argv[1:]:
    case ["settings"]:
        from skydriver_api.settings import ApiSettings
        from skydriver_common.runtime.settings_listing import print_settings

        print_settings(ApiSettings)
    case _:
        from skydriver_api.main import main

        main()
