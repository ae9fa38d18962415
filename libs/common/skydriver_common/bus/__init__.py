"""RabbitMQ: topology, the broker factory with its one acknowledgement policy, the relay. No domain decision is made here."""
