"""The REST gateway: checks a request, sends a command or reads a view, responds.

Admission rule: what belongs to HTTP and its clients. Nothing here decides about a scan; decisions live with the services
that own the facts.
"""
