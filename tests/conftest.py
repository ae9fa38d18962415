"""Fixtures for all tests. Variables of a user's own installation must not reach them."""

import os

pytest_plugins = ["tests.support.servers"]

for _name in [name for name in os.environ if name.startswith("SKYDRIVER_") and not name.startswith("SKYDRIVER_TEST_")]:
    if _name not in ("SKYDRIVER_DATABASE_URL", "SKYDRIVER_AMQP_URL", "SKYDRIVER_RABBITMQ_SERVER"):
        del os.environ[_name]
