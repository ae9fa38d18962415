"""The HTTP server: application and route table, middleware, error mapping, limits, delivery of responses, OpenAPI. Knows no scan."""
