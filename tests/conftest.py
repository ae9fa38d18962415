"""Fixtures for all tests. Variables of a user's own installation must not reach them."""

import os

from hypothesis import HealthCheck, settings

# The same examples in each run, so that a gate is green or red for a reason; HYPOTHESIS_PROFILE=explore looks for new ones.
# No deadline per example: it would measure how busy the machine is, and the first example of a test pays for what is made once.
settings.register_profile("gate", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", print_blob=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))

pytest_plugins = ["tests.support.servers"]

for _name in [name for name in os.environ if name.startswith("SKYDRIVER_") and not name.startswith("SKYDRIVER_TEST_")]:
    if _name not in ("SKYDRIVER_DATABASE_URL", "SKYDRIVER_AMQP_URL", "SKYDRIVER_RABBITMQ_SERVER"):
        del os.environ[_name]
