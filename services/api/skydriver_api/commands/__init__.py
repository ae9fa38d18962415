"""From a request to a command on the bus and its reply: the client, idempotency keys, payloads stored beforehand."""
