"""Limits of the launch throttle."""

MAX_INTERVAL_S = 31_536_000.0
"""A year: what Postgres cannot add to an instant would stop every launch."""
