"""RabbitMQ as this service meets it. Admission rule: no decision, no SQL."""
