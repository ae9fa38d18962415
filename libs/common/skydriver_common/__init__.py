"""What every service shares: the model, the event log, the bus, authentication and the way a process runs.

Admission rule: code comes in when at least two services need it and none of them owns it. Nothing here knows a service.
"""
