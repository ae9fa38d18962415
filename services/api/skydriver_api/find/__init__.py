"""The filter language of `POST /scans/find`: from the client's JSON to rows of the manifest view.

Belongs here: reading a filter (`filters`), reading its regular expressions (`regex`), turning it into one SQL condition with
bound parameters (`compile`), finding the part of it that an index can answer (`lookups`), running it and streaming the response
(`search`). Does not belong here: HTTP, and anything that changes a scan.

Source: REST contract 4.3 and 10.
"""
