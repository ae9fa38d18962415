"""One worker: what EWMS's pilot and the scanner's client do on a pool's machine, as one local process.

What belongs here: following EWMS contract 11. What never does: choosing pixels, or knowing of SkyDriver; a worker sees two
queues, one download address and the address it reports to.
"""
