"""A scanner server: chooses pixels, sends them to workers, collects answers, reports to SkyDriver.

What belongs here: the behaviour of the scanner contract, and the improvements its section 12 allows. What never does:
anything that reads SkyDriver's database or bus; a scanner knows a base URL, a token, and two queues.
"""
