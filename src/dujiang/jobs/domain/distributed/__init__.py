"""How the processes of a job are started and find one another, with each launcher and over each fabric: pure."""

from dujiang.jobs.domain.distributed.fabric import Fabric
from dujiang.jobs.domain.distributed.launchers import Site, Spread, spread

__all__ = ["Fabric", "Site", "Spread", "spread"]
