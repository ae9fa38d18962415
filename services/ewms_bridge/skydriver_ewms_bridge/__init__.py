"""The EWMS bridge: one workflow per scan, its queues, its workers and its end.

Admission rule: code that knows EWMS, the object store for `startup.json`, or the hand-over of queue profiles. It exports
nothing: its surface is its messages and its events.
"""
