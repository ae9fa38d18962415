"""How this service uses RabbitMQ. Admission rule: no decision, no SQL."""
