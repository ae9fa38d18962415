"""Fixtures for all tests. What a user's own shell and installation bring along must not reach them."""

import os
import random
import signal
from itertools import groupby

import pytest
from hypothesis import HealthCheck, settings

# The same examples in each run, so that a gate is green or red for a reason; HYPOTHESIS_PROFILE=explore or nightly looks for new ones.
# No deadline per example: it would measure how busy the machine is, and the first example of a test pays for what is made once.
settings.register_profile(
    "gate", derandomize=True, database=None, deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("explore", print_blob=True, deadline=None)
settings.register_profile(
    "nightly", print_blob=True, deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow]
)
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


# Another order finds tests that lean on each other: `make test-shuffled`, with the seed of a run that was red as SEED=…
_ORDER_SEED = os.environ.get("SKYDRIVER_TEST_ORDER_SEED", "")


def pytest_report_header() -> str:
    """So that an order can be had again."""
    return f"order of tests: shuffled with seed {_ORDER_SEED}" if _ORDER_SEED else "order of tests: as written"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shuffle files, and the tests within each: a file stays together, since its tests share what they start."""
    if not _ORDER_SEED:
        return
    dice = random.Random(_ORDER_SEED)
    files = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    dice.shuffle(files)
    for tests in files:
        dice.shuffle(tests)
    items[:] = [item for tests in files for item in tests]
