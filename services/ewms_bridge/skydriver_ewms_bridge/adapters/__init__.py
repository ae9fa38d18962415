"""The outside of the bridge: EWMS over HTTP, the object store, the hand-over of queue profiles.

Admission rule: a module here implements one port and translates the faults of one library. Only `main` imports it.
"""
