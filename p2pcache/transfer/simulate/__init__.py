"""The pull machine of many agents in virtual time: no sockets, no clock, the same rules.

The model, and what it hides: an uplink sends one grain after another (FIFO, work-conserving), then
such a downlink; the origin shares its rate equally among connections, each capped at the link; what
a node says reaches the others half a beat to two beats later; a request costs `request_s`. Beyond
`neighbours` a node links a random few: it hears what they have, and what anybody brings. Hidden:
TCP, loss, back-pressure of a busy receiver, CPU, disks. Same seed, same figures.

    case.py     what is simulated, and what came of it
    links.py    the origin's shared link
    nodes.py    one agent: its machine, its links, what it hears and says
    run.py      one case, event by event
    faults.py   who is slow, late, lying, killed or cut off
    plot.py     completion over time as an SVG picture
"""

from p2pcache.transfer.simulate.case import MIB, Case, Outcome, Sample
from p2pcache.transfer.simulate.plot import svg
from p2pcache.transfer.simulate.run import Simulation

__all__ = ["MIB", "Case", "Outcome", "Sample", "Simulation", "svg"]
