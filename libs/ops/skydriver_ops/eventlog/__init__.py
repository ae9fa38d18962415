"""What an operator does with the event log: verify, seal, describe, count, export, import, rebuild."""
