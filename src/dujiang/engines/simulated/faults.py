"""What goes wrong in a virtual world, and how often. The default is that nothing does."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Faults:
    """Faults between the platform and the engine (chances of each call), and faults of the world (mean gaps)."""

    before: float = 0.0
    """Chance that a call fails and has no effect."""
    after: float = 0.0
    """Chance that a changing call takes effect and its answer is lost."""
    inventory: float = 0.0
    """Chance that the inventory is refused."""
    partial: float = 0.0
    """Chance that an answer of `observe` leaves attempts out."""
    left_out: float = 0.5
    """Chance of each attempt to be left out of a partial answer."""
    old: float = 0.0
    """Chance that an answer of `observe` is of an earlier moment."""
    lag_s: float = 0.0
    """The oldest that an old answer may be."""
    node_lost_every_s: float = math.inf
    """Mean time between two nodes that fail, over the fleet: what runs there dies at once."""
    node_away_s: float = 120.0
    """Mean time until such a node is back; half of them leave the inventory meanwhile, the others are not ready."""
    killed_every_s: float = math.inf
    """Mean time between two attempts of which one rank dies of SIGKILL."""
    supervisor_lost_every_s: float = math.inf
    """Mean time between two attempts whose supervisor dies: the program goes on until the engine notices."""
    notice_s: float = 30.0
    """From the loss of a node or a supervisor until the engine sees it."""
