"""What the dispatcher decides: pure functions from a scan, and from what has happened, to events.

Admitted is only what neither awaits, nor reads a clock, nor does any I/O: the time is an argument, the result a value.
"""
