"""The domain: ids, values, commands, events, rejections, the scan and its fold.

Pure: no await, no clock, no I/O, no import of ours from outside this package (import-linter proves it).
"""
