"""Virtual clusters behind the engine protocol: nothing real runs, everything says so."""

from dujiang.engines.simulated.engine import SimulatedEngine
from dujiang.engines.simulated.faults import Faults
from dujiang.engines.simulated.fleet import FleetSpec, NodeGroup, parse_fleet
from dujiang.engines.simulated.keeping import open_world
from dujiang.engines.simulated.truth import Run, Truth
from dujiang.engines.simulated.world import World

__all__ = ["Faults", "FleetSpec", "NodeGroup", "Run", "SimulatedEngine", "Truth", "World", "open_world", "parse_fleet"]
