"""Open MPI across the ranks of a job without ssh: the shell text: pure.

mpirun starts a daemon on each other host by calling an agent, `ssh` unless told otherwise. Ours is a file in the
attempt's output folder: it leaves the daemon's command line there, and the rank for which it is meant takes it and
becomes the daemon. So the processes of each rank are its children, within its limits, in its output, on its devices,
and end with it. The folder must be one that all ranks see; where it is not, mpirun fails with a sentence that says so.

Hosts are called rank-1, rank-2 ...: several ranks may share a machine, and mpirun asks nobody for these addresses.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Final

_TAKEN_WITHIN_S: Final = 300
"""How long a rank may be late: its image may still be fetched."""

_AGENT: Final = f"""\
host=$1 folder=${{0%/*}} waited=0
shift
printf '%s\\n' "$*" >"$folder/draft.$host"
mv "$folder/draft.$host" "$folder/orders.$host"
until [ -e "$folder/taken.$host" ]; do
  if [ "$waited" -ge {_TAKEN_WITHIN_S} ]; then
    echo "dujiang: $host did not take its orders from $folder within {_TAKEN_WITHIN_S} s:" >&2
    echo "dujiang: mpirun over several nodes needs a DUJIANG_OUTPUT_DIR that all of them see" >&2
    exit 1
  fi
  waited=$((waited + 1))
  sleep 1
done
"""

_FOLDER: Final = 'folder="$DUJIANG_OUTPUT_DIR/.mpi"\nmkdir -p "$folder"\n'
_OBEY: Final = """\
if [ "$RANK" != 0 ]; then
  until [ -e "$folder/orders.rank-$RANK" ]; do sleep 0.2; done
  : >"$folder/taken.rank-$RANK"
  exec /bin/sh -c "$(cat "$folder/orders.rank-$RANK")"
fi
"""
_FORGET_SLURM: Final = (
    "unset $(env | sed -n -e 's/^\\(SLURM_[A-Za-z0-9_]*\\)=.*/\\1/p' -e 's/^\\(PMIX*_[A-Za-z0-9_]*\\)=.*/\\1/p')\n"
)
"""Else mpirun has Slurm start its daemons, beside the ranks and past their limits."""

IDENTITY: Final = (
    'export RANK="$OMPI_COMM_WORLD_RANK" WORLD_SIZE="$OMPI_COMM_WORLD_SIZE" '
    'LOCAL_RANK="$OMPI_COMM_WORLD_LOCAL_RANK" LOCAL_WORLD_SIZE="$OMPI_COMM_WORLD_LOCAL_SIZE"'
)
"""Goes before what each process runs: the rank of the process takes the place of that of its node."""

AS_ROOT: Final = {f"{whose}_ALLOW_RUN_AS_ROOT{word}": "1" for whose in ("OMPI", "PRTE") for word in ("", "_CONFIRM")}
"""mpirun refuses to be root unless told twice; what runs as root here was decided elsewhere."""
UNBOUND: Final = {"OMPI_MCA_hwloc_base_binding_policy": "none", "PRTE_MCA_hwloc_default_binding_policy": "none"}
"""A rank may hold some cores of a machine only, and several ranks would all be bound to its first."""


def process(run: str, first: str = "") -> str:
    """Return the words that run `run` in one of a launcher's processes, after one shell command.

    Each shell replaces itself by the last that it runs: so a signal finds the program, and its end is the program's.
    """
    inner = f"/bin/sh -e -c {shlex.quote(run)} run"
    outer = shlex.quote(f'{first}; exec "$@"')
    return f"/bin/sh -c {outer} run {inner}" if first else inner


def mpirun(words: Sequence[str], run: str, *, ranks: int, processes: int, on_slurm: bool) -> str:
    """Return what every rank runs so that all together are one MPI program.

    Args:
        words: further ones for mpirun.
        run: what each process runs.
        ranks: of the attempt.
        processes: of each rank.
        on_slurm: whether Slurm's variables are there.
    """
    program = process(run, IDENTITY)
    more = "".join(f" {shlex.quote(word)}" for word in words)
    clean = _FORGET_SLURM if on_slurm else ""
    if ranks == 1:
        return f"{clean}exec mpirun -np {processes} -H localhost:{processes}{more} {program}"
    hosts = (
        f"echo 'localhost slots={processes}' >\"$folder/hosts\"\n"
        'n=1; while [ "$n" -lt "$DUJIANG_NODES" ]; do '
        f'echo "rank-$n slots={processes}" >>"$folder/hosts"; n=$((n + 1)); done\n'
    )
    agent = f"cat >\"$folder/agent\" <<'EOF'\n{_AGENT}EOF\n"
    told = 'export OMPI_MCA_plm_rsh_agent="/bin/sh $folder/agent" PRTE_MCA_plm_ssh_agent="/bin/sh $folder/agent"\n'
    told += "export OMPI_MCA_plm_rsh_no_tree_spawn=1 PRTE_MCA_plm_ssh_no_tree_spawn=1\n"
    start = f'exec mpirun --leave-session-attached --hostfile "$folder/hosts" -np {ranks * processes}{more} {program}'
    return _FOLDER + clean + _OBEY + hosts + agent + told + start
