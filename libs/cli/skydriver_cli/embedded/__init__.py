"""The system on one machine: servers and services as child processes of one supervisor.

What belongs here: where the parts keep their files, how they are started, watched and ended. Each module may know one
kind of part; only `system` knows them all. Nothing here is used in production, where Kubernetes does this work.
"""
