"""Launchers: where a scanner server runs. Each implements ``ports.Launcher`` and translates its own faults."""
