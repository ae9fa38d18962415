"""Fixtures for all tests. What a user's own shell and installation bring along must not reach them."""

import os
import signal

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

# Servers of tests are on loopback, which no proxy leads to.
for _name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[_name]

# A shell starts what runs in the background with SIGINT ignored, and so would every process be that a test starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
