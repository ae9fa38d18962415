"""What travels in bodies and query strings: shapes, their checks, aliases, projections.

Admission rule: pure functions and models, bytes or text in, values out. No network, no clock, no aiohttp. The models are also
what the OpenAPI document is generated from, so a check that a model can state is stated there.
"""
