"""What an operator does with the message broker: dead letters, queues, replay of recorded events."""
