"""How a service process lives: settings, logs and metrics, loops, health, start and stop.

Admission rule: code that is about the process and not about scans. It may use every other part of the shared library; no
other part may use it.
"""
