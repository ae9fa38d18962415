"""Where a queue is, from an EWMS profile."""

from typing import Any

import pytest

from skydriver_sandbox.ewms.broker import Broker, BrokerRefusedError
from skydriver_sandbox.queues import BadProfileError, QueueProfile, read_profile

GOOD = {"name": "q", "auth_token": "t/?k", "broker_type": "rabbitmq", "broker_address": "user@host:5671/vhost"}


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("user@host:5671/vhost", "amqp://user:t%2F%3Fk@host:5671/vhost"),
        ("user@host", "amqp://user:t%2F%3Fk@host/%2F"),
        ("amqps://us%40er@host:1/a%2Fb", "amqps://us%40er:t%2F%3Fk@host:1/a%2Fb"),
        ("user:ignored@host:1", "amqp://user:t%2F%3Fk@host:1/%2F"),
    ],
    ids=["full", "short", "scheme", "password"],
)
def test_the_token_is_the_password(address: str, url: str) -> None:
    assert read_profile("toclient", GOOD | {"broker_address": address}).url() == url


@pytest.mark.parametrize("address", ["", "user@", "http://host", "redis://host"])
def test_an_address_without_a_broker_is_refused(address: str) -> None:
    with pytest.raises(BadProfileError, match="no host"):
        QueueProfile("q", "t", "rabbitmq", address).url()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (None, "'toclient' is not an object"),
        ({**GOOD, "auth_token": None}, "'toclient.auth_token' is not a text"),
        ({**GOOD, "broker_type": "pulsar"}, "'toclient.broker_type' is not rabbitmq"),
    ],
    ids=["null", "no-token", "type"],
)
def test_a_bad_profile_names_its_field_only(fields: Any, reason: str) -> None:
    with pytest.raises(BadProfileError, match=reason) as caught:
        read_profile("toclient", fields)
    assert "t/?k" not in str(caught.value)


@pytest.mark.parametrize(
    ("amqp_url", "address"),
    [
        ("amqp://u:p@h:1/", "u@h:1"),
        ("amqp://u:p@h:1/%2F", "u@h:1"),
        ("amqp://u:p@h:1/v", "u@h:1/v"),
        ("amqp://u:p@h/a%2Fb", "u@h:5672/a%2Fb"),
        ("amqps://u:p@h", "amqps://u@h:5671"),
    ],
)
async def test_without_a_management_interface_all_share_one_login(amqp_url: str, address: str) -> None:
    access = await Broker(amqp_url, None).grant("WF-1", ["a1"])
    assert (access.auth_token, access.broker_address) == ("p", address)
    url = QueueProfile("a1", access.auth_token, "rabbitmq", access.broker_address).url()
    assert url.startswith(amqp_url.partition("://")[0] + "://u:p@h")


@pytest.mark.parametrize("amqp_url", ["", "http://h", "amqp://"])
def test_a_broker_needs_an_amqp_address(amqp_url: str) -> None:
    with pytest.raises(BrokerRefusedError, match="SANDBOX_AMQP_URL"):
        Broker(amqp_url, None)
