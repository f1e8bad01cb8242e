"""What a submission that Slurm turned down means: for good, for these nodes, or for now.

By the words of Slurm's `slurm_strerror` and of the limits that sbatch prints before them; they are the same over REST.
"""

from __future__ import annotations

import re
from typing import Final

from dujiang.engines.contract import EngineRefused, EngineUnavailable, NodeRefused

_FOR_NOW: Final = re.compile(
    r"MaxSubmit|GrpSubmit|MaxJobsPer|temporarily unable to accept|Resource temporarily unavailable"
    r"|maximum (?:allowed )?(?:number of )?(?:jobs|job count)|configuration not available now",
    re.IGNORECASE,
)
"""Limits of how many jobs there may be at one time, and a controller that has too much to do."""
_FOR_THESE_NODES: Final = re.compile(
    r"(?:Required|Requested) (?:node|partition) not available|Requested nodes are busy|Invalid node name",
    re.IGNORECASE,
)
"""Nodes or partitions that are closed, went down, or left since they were chosen."""


def refusal(said: str) -> EngineRefused | EngineUnavailable:
    """Return the error for what sbatch or slurmrestd said; it is not raised."""
    if _FOR_NOW.search(said):
        return EngineUnavailable(f"Slurm takes no more jobs now: {said}")
    kind = NodeRefused if _FOR_THESE_NODES.search(said) else EngineRefused
    return kind(f"Slurm refuses the job: {said}")
