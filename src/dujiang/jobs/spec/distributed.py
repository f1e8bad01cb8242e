"""How the processes of a job find one another: which launcher, and how many processes on each node."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Launcher(StrEnum):
    """What starts the processes of a job, or what they find in their environment."""

    NONE = "none"
    """`run` runs once on each node, with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."""
    TORCHRUN = "torchrun"
    DEEPSPEED = "deepspeed"
    ACCELERATE = "accelerate"
    LIGHTNING = "lightning"
    HOROVOD = "horovod"
    MPI = "mpi"
    """Open MPI's mpirun."""
    TENSORFLOW = "tensorflow"
    """`run` runs once on each node, with TF_CONFIG."""
    JAX = "jax"
    """`run` runs once on each node, with JAX_COORDINATOR_ADDRESS and what else jax.distributed reads."""


STARTED: Final = frozenset({Launcher.TORCHRUN, Launcher.DEEPSPEED, Launcher.ACCELERATE, Launcher.HOROVOD, Launcher.MPI})
"""Those that are programs, and start `run` themselves."""
ONE_EACH: Final = frozenset({Launcher.NONE, Launcher.TENSORFLOW, Launcher.JAX})
"""Those with one process on each node, which sees all its devices."""
LONGEST_RUN_BYTES: Final = 100_000
"""Of a `run` that is handed to a launcher as one argument: Linux takes 128 KiB of one."""


@dataclass(frozen=True, slots=True)
class Distributed:
    """How the processes of a job are started."""

    launcher: Launcher = Launcher.NONE
    processes: int | None = None
    """On each node; None is one for each of its whole devices, or one where it has none."""
    args: tuple[str, ...] = ()
    """Further words for the launcher itself, as they are."""

    def document(self) -> str | dict[str, Any]:
        """Return it as it is written in a specification."""
        more = {"processes": self.processes, "args": list(self.args)}
        given = {name: value for name, value in more.items() if value}
        return {"launcher": self.launcher.value, **given} if given else self.launcher.value


ALONE: Final = Distributed()
