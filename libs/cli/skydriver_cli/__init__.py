"""The command line: asks the REST API, and runs the whole system on one machine.

What belongs here: reading what a person typed, showing what came back, and starting, watching and ending processes
(`embedded`). What does not: decisions about scans. Commands on scans go through the REST API only, so that whatever the
command line can do, any client can.
"""
