"""What only an operator runs on the event log, the bus and the database. No service imports it; the command line does."""
