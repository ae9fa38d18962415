"""Fixtures for all tests. Variables of a user's own installation must not reach them."""

import os

from hypothesis import settings

# The same examples in each run, so that a gate is green or red for a reason; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("gate", derandomize=True, database=None)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

pytest_plugins = ["tests.support.servers"]

for _name in [name for name in os.environ if name.startswith("SKYDRIVER_") and not name.startswith("SKYDRIVER_TEST_")]:
    if _name not in ("SKYDRIVER_DATABASE_URL", "SKYDRIVER_AMQP_URL", "SKYDRIVER_RABBITMQ_SERVER"):
        del os.environ[_name]
