"""SkyDriver for Python: request scans, find them, follow them, fetch results.

``SkyDriver`` blocks, ``AsyncSkyDriver`` is for asyncio; both have the same methods. It installs alone, with httpx2.
"""
