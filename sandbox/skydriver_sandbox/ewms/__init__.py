"""A strict EWMS on one machine: its REST interface, its token issuer, an object store, and workers as local processes.

What belongs here: what the published contract says EWMS does, and its observed misbehaviour on request. What never does:
kindness. A body the real service refuses is refused here too, or mistakes would only show in production.
"""
