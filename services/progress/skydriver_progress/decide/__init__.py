"""All decisions of this service. Admission rule: pure functions and values; no await, no clock, no database, no bus."""
