"""The commands of a batch script, as they can run here: each node runs all of it, and there is no `srun`.

Slurm runs a script on the first node alone and `srun` spreads a command over all tasks. Here a job's `run` is on each
node. So a script on one node stays as it is; on several, what `srun` starts stays on all, and a script without one goes
on the first node alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from dujiang.jobs.converting.commands import Run
from dujiang.jobs.converting.report import Report
from dujiang.jobs.converting.slurm.layout import Layout
from dujiang.jobs.converting.slurm.lines import Script
from dujiang.jobs.converting.slurm.srun import Step, step_of
from dujiang.jobs.spec import parse_indices
from dujiang.kit.spec.problems import quote

_SHELLS: Final = frozenset(("sh", "bash", "dash", "zsh", "ksh", "ash"))
_VARIABLE: Final = re.compile(r"\bSLURM[A-Z]?_[A-Z0-9_]+\b")
_COMMANDS: Final = re.compile(
    r"(?<![\w./-])(srun|scontrol|squeue|sacct|scancel|sinfo|sbcast|salloc|sbatch|sstat)(?=\s|$|\))"
)
_RENDEZVOUS: Final = re.compile(r"\s*(?:export\s+)?(MASTER_ADDR|MASTER_PORT)=.*(?:scontrol|SLURM|hostname)")
_MPI_LINE: Final = re.compile(r"(?:exec\s+|time\s+)?(mpirun|mpiexec)\s")
_FIRST_ONLY: Final = 'if [ "${RANK:-0}" != 0 ]; then exit 0; fi'

_SAME: Final[Mapping[str, str]] = {
    "SLURM_JOB_ID": "$DUJIANG_JOB_ID",
    "SLURM_JOBID": "$DUJIANG_JOB_ID",
    "SLURM_JOB_NAME": "$DUJIANG_JOB_NAME",
    "SLURM_ARRAY_TASK_ID": "$DUJIANG_ARRAY_INDEX",
    "SLURM_ARRAY_JOB_ID": "$DUJIANG_ARRAY_ID",
    "SLURM_ARRAY_TASK_COUNT": "$DUJIANG_ARRAY_SIZE",
    "SLURM_JOB_NUM_NODES": "$DUJIANG_NODES",
    "SLURM_NNODES": "$DUJIANG_NODES",
    "SLURM_NODEID": "$RANK",
    "SLURM_RESTART_COUNT": "$((DUJIANG_ATTEMPT - 1))",
    "SLURM_SUBMIT_DIR": "$PWD",
    "SLURM_SUBMIT_HOST": "$(hostname)",
    "SLURMD_NODENAME": "$(hostname)",
    "SLURM_JOB_USER": "$(id -un)",
    "SLURM_JOB_UID": "$(id -u)",
    "SLURM_TMPDIR": "${TMPDIR:-/tmp}",
    "SLURM_LOCALID": "0",
    "SLURM_LAUNCH_NODE_IPADDR": "$MASTER_ADDR",
}
"""Variables with the same meaning here, as a shell writes them."""


_OF_MPI: Final[Mapping[str, str]] = {
    "SLURM_PROCID": "$OMPI_COMM_WORLD_RANK",
    "SLURM_LOCALID": "$OMPI_COMM_WORLD_LOCAL_RANK",
}


@dataclass(slots=True)
class Rewritten:
    """What became of a script."""

    run: Run
    mpi: int = 0
    """mpirun was taken out of it: the launcher starts it, with so many processes on each node."""
    args: tuple[str, ...] = ()
    image: str = ""
    workdir: str = ""
    constants: dict[str, str] = field(default_factory=dict)
    """For a script that is no shell script: variables for its environment."""


def rewrite(script: Script, found: Layout, array: str | None, report: Report, known: Mapping[str, str]) -> Rewritten:
    """Return a script as it can run here.

    Args:
        script: as it was read.
        found: what each node has.
        array: the indices of its array.
        report: takes the notes.
        known: values of variables that the options say, such as SLURM_JOB_PARTITION.
    """
    program = script.interpreter.split()[-1 if "env" in script.interpreter.split()[0] else 0].rpartition("/")[2]
    if program not in _SHELLS:
        return _other(script, found, array, report, known)
    return _Shell(script, found, report).rewritten(array, known)


class _Shell:
    def __init__(self, script: Script, found: Layout, report: Report) -> None:
        self._script, self._found, self._report = script, found, report
        self._lines = script.body.split("\n") if script.body else []
        self._steps: list[Step] = []
        self._mpi: Step | None = None
        self._seen: list[str] = []
        """The lines whose variables of Slurm are used."""
        self._last = {line.strip(): index for index, line in enumerate(self._lines)}
        """Where each line stands for the last time."""
        self._first: dict[str, tuple[int, int]] = {}
        """Where each variable stands for the first time."""
        for number, line in zip(script.lines, self._lines, strict=False):
            if not line.lstrip().startswith("#"):
                for match in _VARIABLE.finditer(line):
                    self._first.setdefault(match[0], (number, match.start() + 1))

    def rewritten(self, array: str | None, known: Mapping[str, str]) -> Rewritten:
        body = "\n".join(self._each_line()).strip("\n")
        names = _names(self._seen)
        if self._mpi is not None:
            known = {**known, **_OF_MPI}
        exports = _exports(names, self._found, array, known, self._report, self._at_of)
        if self._found.nodes > 1:
            body = self._on_several(body)
        images = [step.image for step in self._steps if step.image]
        folders = [step.workdir for step in self._steps if step.workdir]
        return Rewritten(
            Run(body, tuple(exports), self._script.interpreter), self._mpi.per_node if self._mpi else 0,
            self._mpi.args if self._mpi else (), images[0] if images else "", folders[0] if folders else "",
        )  # fmt: skip

    def _at_of(self, name: str) -> tuple[int | None, int | None]:
        """Return where a variable first stands in the script."""
        return self._first.get(name, (None, None))

    def _each_line(self) -> list[str]:
        made: list[str] = []
        index = 0
        here = ""
        while index < len(self._lines):
            taken = 1
            line = self._lines[index]
            number = self._script.lines[index]
            if here:
                self._seen.append(line)
                here = "" if line.strip() == here else here
            else:
                while self._lines[index + taken - 1].endswith("\\") and index + taken < len(self._lines):
                    taken += 1
                line = "\n".join(self._lines[index : index + taken])
                line = self._line(line, number)
                here = self._here_document(line, index + taken)
            made.append(line)
            index += taken
        return made

    def _here_document(self, line: str, after: int) -> str:
        """Return the word that ends the text which begins after a line; empty when none does."""
        match = re.search(r"(?<=[\s\d])<<-?\s*['\"]?([A-Za-z_]\w*)['\"]?", line)
        return match[1] if match is not None and self._last.get(match[1], -1) >= after else ""

    def _line(self, line: str, number: int) -> str:
        if line.lstrip().startswith("#"):
            return line
        match = _RENDEZVOUS.match(line)
        if match is None:
            self._seen.append(line)
        else:
            what = f"{match[1]} is left to the platform."
            why = "It is the same on all nodes of the job, on a port that is free."
            self._report.note("script", what, why, at=(number, 1), kept=True)
            return "# " + line.replace("\n", "\n# ")
        step = step_of(line, self._found)
        if step is not None:
            return self._step(step, number)
        if self._found.nodes > 1 and _MPI_LINE.match(line) and self._mpi is None:
            self._mpi = step_of(line, self._found, mpi=True)
            if self._mpi is not None:
                why = "It knows the nodes; the whole script is what each process runs."
                self._report.note("script", "The platform starts mpirun.", why, at=(number, 1), kept=True)
                return self._mpi.text
        for match in _COMMANDS.finditer(line):
            why = "There is none on nodes that Slurm does not manage, and no Slurm job around this one."
            instead = "Use MASTER_ADDR, RANK, WORLD_SIZE and DUJIANG_NODES." if match[1] in ("srun", "scontrol") else ""
            what = f"{match[1]} stays in the script."
            self._report.note("script", what, why, instead, at=(number, match.start() + 1))
        return line

    def _step(self, step: Step, number: int) -> str:
        self._steps.append(step)
        for name, why in step.lost:
            self._report.note("script", f"{name} of srun is not kept.", why, at=(number, 1))
        if step.image:
            why = "The whole script runs in it."
            self._report.note("script", f"The job runs in {quote(step.image)}.", why, at=(number, 1),
                              kept=True)  # fmt: skip
        what = "srun is left out: what it starts runs as it is."
        if step.per_node > 1:
            what = f"srun is a loop that starts {step.per_node} processes on each node."
        elif self._found.nodes > 1:
            what = "srun is left out: the script runs once on each node."
            if step.is_first_only:
                what = "srun is left out: what it starts runs on the first node."
        self._report.note("script", what, "There is no srun here.", at=(number, 1), kept=True)
        return step.text

    def _on_several(self, body: str) -> str:
        if self._mpi is not None:
            return body
        at = (self._script.lines[0], 1) if self._script.lines else (None, None)
        if any(not step.is_first_only for step in self._steps):
            what = "The whole script runs on each node, not only what srun starts."
            why = "A job's run is on each of its nodes."
            instead = 'Guard what is for one node alone by: if [ "$RANK" = 0 ]; then ...; fi'
            self._report.note("script", what, why, instead, at=at, kept=True)
            return body
        what = "The script runs on the first node; the others have nothing to do."
        why = "So it is with Slurm, where no srun that could be read starts anything on them."
        instead = "Let what is for all nodes run on all, and leave out the first line of the script."
        self._report.note("script", what, why, instead, at=at)
        return f"{_FIRST_ONLY}\n{body}"


def _names(lines: Sequence[str]) -> list[str]:
    return sorted(set(_VARIABLE.findall("\n".join(lines))) - _assigned(lines))


def _assigned(lines: Sequence[str]) -> set[str]:
    """Return the variables that the script gives a value itself."""
    return {match[1] for line in lines if (match := re.match(r"\s*(?:export\s+)?(SLURM[A-Z]?_\w+)=", line))}


def values(found: Layout, array: str | None, known: Mapping[str, str]) -> dict[str, str]:
    """Return Slurm's variables that have a value here, as a shell writes it."""
    tasks = "$((DUJIANG_NODES * " + str(found.tasks) + "))"
    made = {
        **_SAME,
        "SLURM_PROCID": "$RANK" if found.tasks == 1 else f"$((RANK * {found.tasks}))",
        "SLURM_NTASKS": "$DUJIANG_NODES" if found.tasks == 1 else tasks,
        "SLURM_NTASKS_PER_NODE": str(found.tasks),
        "SLURM_TASKS_PER_NODE": f"{found.tasks}(x{found.nodes})" if found.nodes > 1 else str(found.tasks),
        "SLURM_CPUS_PER_TASK": str(found.cpus_per_task),
        "SLURM_CPUS_ON_NODE": str(found.cpus),
        "SLURM_JOB_CPUS_PER_NODE": str(found.cpus),
        "SLURM_GPUS": str(found.gpus * found.nodes),
        "SLURM_GPUS_ON_NODE": str(found.gpus),
        "SLURM_GPUS_PER_NODE": str(found.gpus),
        "SLURM_MEM_PER_NODE": str(found.memory // 2**20 if found.memory else 1024),
        **known,
    }
    made["SLURM_NPROCS"] = made["SLURM_NTASKS"]
    if array is not None:
        numbers = parse_indices(array)
        steps = {later - earlier for earlier, later in pairwise(numbers)}
        made["SLURM_ARRAY_TASK_MIN"], made["SLURM_ARRAY_TASK_MAX"] = str(numbers[0]), str(numbers[-1])
        made["SLURM_ARRAY_TASK_STEP"] = str(steps.pop() if len(steps) == 1 else 1)
    else:
        for name in [name for name in made if name.startswith("SLURM_ARRAY")]:
            del made[name]
    return made


def _exports(
    names: Sequence[str], found: Layout, array: str | None, known: Mapping[str, str], report: Report, at_of: object
) -> list[str]:  # fmt: skip
    table = values(found, array, known)
    exports: list[str] = []
    for name in names:
        at = at_of(name) if callable(at_of) else (None, None)
        if name in table:
            exports.append(f'export {name}="{table[name]}"')
            why = "Slurm sets it; here a line before the script does."
            report.note("script", f"{name} is {table[name]}.", why, at=at, kept=True)
        else:
            instead = "MASTER_ADDR, RANK, WORLD_SIZE and DUJIANG_NODES tell nodes apart."
            report.note("script", f"{name} is not set.", "Slurm sets it, and it has no meaning here.", instead, at=at)
    return exports


def _other(
    script: Script, found: Layout, array: str | None, report: Report, known: Mapping[str, str]
) -> Rewritten:  # fmt: skip
    """A script of Python or another language: nothing can be put before it."""
    body = script.body.strip("\n")
    table = values(found, array, known)
    constants: dict[str, str] = {}
    for name in sorted(set(_VARIABLE.findall(body))):
        value = table.get(name, "$")
        if "$" in value:
            instead = f"Read {value.strip('$')} in its place." if re.fullmatch(r"\$\w+", value) else ""
            report.note("script", f"{name} is not set.", "No line can be put before a script that is no shell script.",
                        instead, at=(None, None))  # fmt: skip
        else:
            constants[name] = value
    if found.nodes > 1:
        why = "A job's run is on each of its nodes, and no line can be put before this script."
        report.note("script", "The script runs on each node.", why, "Have it tell ranks apart by RANK.", at=(2, 1))
    return Rewritten(Run(body, (), script.interpreter), constants=constants)
