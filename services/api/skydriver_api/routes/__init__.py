"""Handlers, thin: parse, use case or view, reply."""
