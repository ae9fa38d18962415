"""What the bridge decides: what to ask EWMS for, what to record, what the state of a scan and its workers mean.

Admission rule: pure functions of values. No await, no clock, no chance except where handed in, no import of ours but the
model and this service's values.
"""
