"""The command line: a client of the REST API, the tools of operators, and the whole system on one machine.

What belongs here: parsing arguments, printing results, and starting, supervising and stopping processes (`embedded`). What does
not: decisions about scans. Commands on scans use the REST API only, so that any client can do what the command line does. What
operators do to the event log, the bus and the database is in `skydriver_ops`. Services and sandbox are started, never imported.
"""
