"""Postgres: pool, statements, faults, due work, migrations. What is stored in which table is the business of ``log``."""
