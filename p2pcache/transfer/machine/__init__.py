"""One pull as a pure machine: events in, actions out. No clock, no chance, no await, no disk.

The driver (transfer/driver) and the virtual-time simulator (transfer/simulate) run this same
class. Time is an argument of `Download.handle`; chance is a callable given at construction,
returning [0, 1).

    download.py   events to actions: what happened
    planning.py   what to do then, and when a pull is over
    state.py      what is known, under both
    choose.py     who is asked for what next (the rules of preference)
    roster.py     the sources as a plan sees them, sorted once for many plans
    owners.py     who brings which unit from the origin when nobody has it
    shares.py     the same on sets of blocks
    zones.py      how far members are: one copy crosses into a zone
    blame.py      what a fault costs its source
    flights.py    requests on their way: stalls, slow ones, the bounded duplicates of the endgame
    blobs.py      which blocks of a blob are here, on their way, or to be compared again
    sources.py    what a source holds, how fast it is, why it is left alone
    bits.py       sets of blocks as integers
"""

from p2pcache.transfer.machine.download import Download
from p2pcache.transfer.machine.sources import SourceStatistics, Statistics

__all__ = ["Download", "SourceStatistics", "Statistics"]
