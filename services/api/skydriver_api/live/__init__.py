"""Live events for watchers, and hints for the bridge that somebody watches."""
