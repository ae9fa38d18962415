"""Stand-ins for the systems outside SkyDriver, so that the whole loop runs on one machine.

What belongs here: an EWMS server, its workers, a scanner server, a sample event; each speaks the published contract of
the system it stands in for. What never does: anything a SkyDriver service imports. Nothing here imports SkyDriver either,
so that a mistake in SkyDriver's reading of a contract cannot hide behind the same mistake in the stand-in.
"""
