"""The system on one machine: servers and services as child processes of one supervisor.

What belongs here: where the processes keep their files, how they are started, supervised and stopped. Each module knows one
kind of process; only `system` knows them all. Nothing here is used in production, where Kubernetes does this work.
"""
