"""Launcher ``kubernetes``: a scanner server is a Job; one replica at a time watches Jobs and Pods."""
