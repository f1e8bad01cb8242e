"""From what a job says of its launcher to what each of its ranks runs: pure.

An engine starts one program for each rank (a node of the job) and tells it RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT,
DUJIANG_NODES and DUJIANG_HOSTS. What a launcher needs beyond that is made of these, in shell text, so that it is the
same on every engine. `run` is always what each process runs; each launcher's own documented form is in
docs/distributed.md.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from dujiang.engines.contract import RankPlacement
from dujiang.jobs.domain.distributed import mpi
from dujiang.jobs.domain.distributed.fabric import (
    Fabric,
    between_machines,
    daemons_on_one_machine,
    on_one_machine,
)
from dujiang.jobs.spec import Distributed, Launcher
from dujiang.jobs.spec.distributed import ONE_EACH


@dataclass(frozen=True, slots=True)
class Site:
    """Where an attempt runs, as far as its launcher is concerned."""

    engine: str = "local"
    """The engine's kind."""
    fabric: Fabric | None = None
    """Of the cluster; None is not known."""


@dataclass(frozen=True, slots=True)
class Spread:
    """What a launcher makes of a job."""

    run: str
    """What each rank runs."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Below the job's own."""
    ports: int = 0
    """How many more ports are needed, after the job's own."""
    shares_output: bool = False
    """Whether it works only where all ranks see one output folder."""


@dataclass(frozen=True, slots=True)
class _Case:
    words: tuple[str, ...]
    run: str
    ranks: tuple[RankPlacement, ...]
    processes: int
    engine: str
    ports: int

    @property
    def shares_machines(self) -> bool:
        """Whether several ranks are on one machine with one network."""
        return self.engine != "kubernetes" and len({rank.node for rank in self.ranks}) < len(self.ranks)

    @property
    def is_one_machine(self) -> bool:
        """Whether all ranks are: each Pod has a network of its own."""
        return len(self.ranks) == 1 or (self.engine != "kubernetes" and len({rank.node for rank in self.ranks}) == 1)

    @property
    def more(self) -> str:
        """The words for the launcher, each after a space."""
        return "".join(f" {shlex.quote(word)}" for word in self.words)

    def program(self, first: str = "") -> str:
        """Return the words that run `run` in one process, after one shell command."""
        return mpi.process(self.run, first)


def spread(
    wanted: Distributed, run: str, ranks: tuple[RankPlacement, ...], site: Site, *, ports: int = 0
) -> Spread:  # fmt: skip
    """Return what each rank runs, and with which environment.

    Args:
        wanted: the launcher.
        run: what the job runs.
        ranks: of the attempt, which may be fewer than the job's nodes where it is elastic.
        site: where they are.
        ports: that the job has asked for itself.
    """
    launcher = wanted.launcher
    if site.engine == "simulated":
        return Spread(run)
    devices = sum(1 for share in ranks[0].devices if share.gpu_milli == 1000)
    processes = 1 if launcher in ONE_EACH else wanted.processes or max(1, devices)
    case = _Case(wanted.args, _program(run, launcher), ranks, processes, site.engine, ports)
    if launcher is Launcher.NONE:
        return Spread(run, {} if case.is_one_machine else _network(case, site))
    cores = max(1, ranks[0].cpu_milli // 1000 // processes)
    env = {"DUJIANG_PROCESSES": str(processes), "OMP_NUM_THREADS": str(cores), **_network(case, site)}
    made = _MAKERS[launcher](case)
    return replace(made, env={**env, **made.env})


def _program(run: str, launcher: Launcher) -> str:
    """Return `run`; a line that begins with a Python file is for Python, as launchers have it."""
    words = run.split(maxsplit=1)
    is_script = launcher is not Launcher.NONE and words[0].endswith(".py") and "\n" not in run.strip()
    return f"python {run.strip()}" if is_script else run


def _network(case: _Case, site: Site) -> dict[str, str]:
    if case.is_one_machine:
        return on_one_machine()
    return between_machines(site.fabric, has_devices=bool(case.ranks[0].devices)) if site.fabric else {}


def _torchrun(case: _Case) -> Spread:
    where = '--node_rank="$RANK" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT"'
    size = f'--nnodes="$DUJIANG_NODES" --nproc_per_node={case.processes}'
    return Spread(f"exec torchrun {size} {where}{case.more} --no_python {case.program()}")


def _accelerate(case: _Case) -> Spread:
    world = len(case.ranks) * case.processes
    where = '--machine_rank="$RANK" --main_process_ip="$MASTER_ADDR" --main_process_port="$MASTER_PORT"'
    size = f'--num_machines="$DUJIANG_NODES" --num_processes={world}'
    several = " --multi_gpu --rdzv_backend=static" if world > 1 else ""
    plain = "--mixed_precision=no --dynamo_backend=no"
    return Spread(f"exec accelerate launch {size} {where}{several} {plain}{case.more} --no_python {case.program()}")


def _deepspeed(case: _Case) -> Spread:
    """Each node starts its own processes, without ssh; the hostfile says how many there are on the others."""
    hosts = (
        'hostfile="$DUJIANG_OUTPUT_DIR/hostfile.$RANK"\n'
        'n=0; while [ "$n" -lt "$DUJIANG_NODES" ]; do '
        f'echo "rank-$n slots={case.processes}"; n=$((n + 1)); done >"$hostfile"\n'
    )
    # It numbers the devices of a host from 0, past those that this rank was given.
    kept = 'export DUJIANG_DEVICES="${CUDA_VISIBLE_DEVICES:-}"\n'
    own = 'export CUDA_VISIBLE_DEVICES="$DUJIANG_DEVICES"'
    where = '--no_ssh --node_rank="$RANK" --master_addr="$MASTER_ADDR" --master_port="$MASTER_PORT"'
    start = f'exec deepspeed --hostfile="$hostfile" {where}{case.more} --no_python --no_local_rank {case.program(own)}'
    return Spread(hosts + kept + start)


def _lightning(case: _Case) -> Spread:
    """Lightning starts the processes of a node itself unless it finds LOCAL_RANK."""
    env = {"SLURM_JOB_NAME": "interactive"} if case.engine == "slurm" else {}  # else it counts Slurm's tasks
    return Spread(f"unset LOCAL_RANK LOCAL_WORLD_SIZE RANK WORLD_SIZE\n{case.run}", env)


def _mpi(case: _Case) -> Spread:
    return _mpirun(case, case.words, {**mpi.AS_ROOT, **mpi.UNBOUND, **_transport(case)})


def _horovod(case: _Case) -> Spread:
    if len(case.ranks) == 1:
        first = 'export RANK="$HOROVOD_RANK" WORLD_SIZE="$HOROVOD_SIZE" LOCAL_RANK="$HOROVOD_LOCAL_RANK"'
        size = f"-np {case.processes} -H localhost:{case.processes}"
        return Spread(f"exec horovodrun {size}{case.more} {case.program(first)}", dict(mpi.AS_ROOT))
    env = {**mpi.AS_ROOT, **_transport(case)}
    transport = env.pop("OMPI_MCA_btl", "^openib")
    words = ("-bind-to", "none", "-map-by", "slot", "-mca", "pml", "ob1", "-mca", "btl", transport, *case.words)
    return _mpirun(case, words, env)


def _mpirun(case: _Case, words: Sequence[str], env: Mapping[str, str]) -> Spread:
    """The daemons of several ranks are handed over in their output folder."""
    ranks = len(case.ranks)
    run = mpi.mpirun(words, case.run, ranks=ranks, processes=case.processes, on_slurm=case.engine == "slurm")
    return Spread(run, env, shares_output=ranks > 1)


def _transport(case: _Case) -> dict[str, str]:
    """Daemons of one machine would take each other's shared memory for their own (seen with 4.1.4: a crash)."""
    if not case.shares_machines:
        return {}
    return {"OMPI_MCA_btl": "tcp,self", **(daemons_on_one_machine() if case.is_one_machine else {})}


def _tensorflow(case: _Case) -> Spread:
    """Every worker has an address of its own: a port of the job's where all are on one machine."""
    if len(case.ranks) > 1 and case.is_one_machine:
        more = len(case.ranks)
        ports = [f'"$PORT{nth or ""}"' for nth in range(case.ports, case.ports + more)]
    else:
        before, more, ports = Counter[str](), 0, []
        for rank in case.ranks:
            ports.append(f"$((MASTER_PORT + {before[rank.node]}))")
            before[rank.node] += 1
    workers = (
        f"  set -- {' '.join(ports)}\n  IFS=, all=\n"
        '  for host in $DUJIANG_HOSTS; do all="$all,\\"$host:$1\\""; shift; done\n'
        """  printf '{"cluster": {"worker": [%s]}, "task": {"type": "worker", "index": %s}}' "${all#,}" "$RANK"\n"""
    )
    text = f'if [ -z "${{TF_CONFIG:-}}" ]; then TF_CONFIG=$(\n{workers}); export TF_CONFIG; fi\n'
    return Spread(text + case.run, ports=more)


def _jax(case: _Case) -> Spread:
    text = (
        'export JAX_COORDINATOR_ADDRESS="${JAX_COORDINATOR_ADDRESS:-$MASTER_ADDR:$MASTER_PORT}"\n'
        'export JAX_NUM_PROCESSES="${JAX_NUM_PROCESSES:-$WORLD_SIZE}" JAX_PROCESS_ID="${JAX_PROCESS_ID:-$RANK}"\n'
    )
    held = range(len(case.ranks[0].devices))
    # jax asks Slurm for what it is not told: there, one device for each task.
    env = {"JAX_LOCAL_DEVICE_IDS": ",".join(map(str, held))} if case.engine == "slurm" and held else {}
    return Spread(text + case.run, env)


_MAKERS: Final[Mapping[Launcher, Callable[[_Case], Spread]]] = {
    Launcher.TORCHRUN: _torchrun,
    Launcher.DEEPSPEED: _deepspeed,
    Launcher.ACCELERATE: _accelerate,
    Launcher.LIGHTNING: _lightning,
    Launcher.HOROVOD: _horovod,
    Launcher.MPI: _mpi,
    Launcher.TENSORFLOW: _tensorflow,
    Launcher.JAX: _jax,
}
