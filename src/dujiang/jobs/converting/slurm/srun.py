"""Lines of a shell script that are one `srun` or `mpirun`: what they start, and how often on each node. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from dujiang.jobs.converting.report import names
from dujiang.jobs.converting.slurm.layout import Layout

_PREFIX: Final = re.compile(r"(\s*)(?:exec\s+|time\s+)?(srun|mpirun|mpiexec)(?=\s)")
_BARE: Final = names(
    "u unbuffered l label Q quiet v verbose K exact overlap exclusive E preserve-env O overcommit s oversubscribe k "
    "no-kill X disable-status Z no-allocate contiguous whole container-mount-home no-container-mount-home "
    "no-container-entrypoint kill-on-bad-exit"
)
_VALUED: Final = names(
    "n ntasks N nodes c cpus-per-task ntasks-per-node ntasks-per-gpu G gpus gpus-per-node gpus-per-task gres mem "
    "mem-per-cpu mem-per-gpu mpi cpu-bind cpu_bind mem-bind gpu-bind m distribution hint o output e error i input J "
    "job-name D chdir export t time p partition A account q qos w nodelist x exclude W wait threads-per-core "
    "cpus-per-gpu accel-bind cpu-freq gpu-freq profile task-prolog task-epilog prolog epilog r relative propagate "
    "open-mode container-image container-mounts container-workdir container-name jobid network "
    "kill-on-bad-exit"
)
_LAYOUT: Final = names("n ntasks N nodes ntasks-per-node")
_LOST: Final = {
    **dict.fromkeys(("o", "output", "e", "error"), "What a job writes is kept by the platform; see `dujiang logs`."),
    **dict.fromkeys(("w", "nodelist", "x", "exclude", "r", "relative"), "A job does not name its nodes."),
    **dict.fromkeys(("D", "chdir"), "Change into the folder in the script."),
    **dict.fromkeys(("t", "time"), "The job has a time limit, its steps have none."),
    "export": "What it runs has the environment of the script.",
    "container-mounts": "Nothing is mounted into jobs.",
    **dict.fromkeys(("gpus-per-task", "ntasks-per-gpu", "gres", "G", "gpus"), "What it runs sees all devices of its "
                    "node."),
}  # fmt: skip
_MPI_VALUED: Final = names("x bind-to rank-by map-by mca np n c N npernode hostfile machinefile host H")
_MPI_BARE: Final = names("allow-run-as-root oversubscribe tag-output report-bindings")
_MPI_FILLED: Final = names("np n c N npernode hostfile machinefile host H map-by")
_SUBSTITUTION: Final = re.compile(r"[`]|\$\(")


@dataclass(frozen=True, slots=True)
class Step:
    """One such line, as it runs here."""

    text: str
    per_node: int = 1
    is_first_only: bool = False
    image: str = ""
    workdir: str = ""
    lost: tuple[tuple[str, str], ...] = ()
    """Options that are not kept, and why."""
    args: tuple[str, ...] = ()
    """Of mpirun, for the launcher."""


def step_of(line: str, found: Layout, *, mpi: bool = False) -> Step | None:
    """Return what a line starts; None when it is no such line alone, or says what cannot be said here.

    Args:
        line: with the lines that continue it.
        found: what the script asks for.
        mpi: look for mpirun rather than srun.
    """
    prefix = _PREFIX.match(line)
    if prefix is None or (prefix[2] == "srun") == mpi:
        return None
    words = _words(line, prefix.end())
    options = _options(words, _MPI_VALUED if mpi else _VALUED, _MPI_BARE if mpi else _BARE, two="mca" if mpi else "")
    if options is None:
        return None
    given, start = options
    command = line[start:].rstrip()
    if mpi:
        return None if prefix[1] or not _is_simple(command) else _mpi(given, command, found)
    if any(name == "mpi" and value not in ("none", "list") for name, value in given) and found.nodes * found.tasks > 1:
        return None  # PMI between tasks: no loop of a shell gives that
    step = _spread(given, command, found)
    if step is None or step.text == command:
        return step and replace(step, text=line[: prefix.start(2)] + command)
    return step if _is_simple(command) else None


def _is_simple(command: str) -> bool:
    """Say whether shell text is one command, with nothing before or after it that a loop around it would repeat."""
    return re.search(r"[;&|]", re.sub(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|\\.|[0-9]?>&[0-9]|&>", "", command)) is None


def _spread(given: Sequence[tuple[str, str]], command: str, found: Layout) -> Step | None:
    numbers = {name: value for name, value in given if name in _LAYOUT}
    tasks = numbers.get("n") or numbers.get("ntasks")
    nodes = numbers.get("N") or numbers.get("nodes")
    per_node = numbers.get("ntasks-per-node")
    lost = tuple((f"-{name}" if len(name) == 1 else f"--{name}", _LOST[name]) for name, _ in given if name in _LOST)
    image = next((value for name, value in given if name == "container-image"), "").replace("#", "/", 1)
    folder = next((value for name, value in given if name == "container-workdir"), "")
    if tasks == "1" and nodes in (None, "1") and per_node in (None, "1"):
        if found.nodes == 1:
            return Step(command, 1, False, image, folder, lost)
        return Step(f'if [ "${{RANK:-0}}" = 0 ]; then\n{command}\nfi', 1, True, image, folder, lost)
    if nodes is not None and nodes not in (str(found.nodes), "$SLURM_NNODES", "$SLURM_JOB_NUM_NODES"):
        return None
    if tasks is not None and tasks not in (str(found.total), "$SLURM_NTASKS", "$SLURM_NPROCS"):
        if not (tasks.isdigit() and int(tasks[:6]) % found.nodes == 0 and int(tasks[:6]) // found.nodes <= 1024):
            return None if tasks not in ("$SLURM_NNODES", "$SLURM_JOB_NUM_NODES") else Step(
                command, 1, False, image, folder, lost
            )  # fmt: skip
        count = int(tasks[:6]) // found.nodes
    elif per_node is not None and per_node != "$SLURM_NTASKS_PER_NODE":
        if not per_node.isdigit() or not 0 < int(per_node[:6]) <= 1024:
            return None
        count = int(per_node)
    else:
        count = found.tasks
    return Step(command if count == 1 else _loop(command, count), count, False, image, folder, lost)


def _loop(command: str, count: int) -> str:
    """Return shell text that runs a command so many times at once, as the tasks of a node, and ends as the worst.

    RANK and its like tell the same as Slurm's variables: some programs look at these first.
    """
    return f"""dujiang_pids= dujiang_task=0
while [ "$dujiang_task" -lt {count} ]; do
(
export SLURM_LOCALID="$dujiang_task" SLURM_PROCID="$((${{RANK:-0}} * {count} + dujiang_task))"
export SLURM_NTASKS="$((${{DUJIANG_NODES:-1}} * {count}))"
export RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS"
{command}
) &
dujiang_pids="$dujiang_pids $!" dujiang_task="$((dujiang_task + 1))"
done
dujiang_worst=0
for dujiang_pid in $dujiang_pids; do
dujiang_code=0
wait "$dujiang_pid" || dujiang_code=$?
if [ "$dujiang_code" -gt "$dujiang_worst" ]; then dujiang_worst="$dujiang_code"; fi
done
( exit "$dujiang_worst" )"""


def _mpi(given: Sequence[tuple[str, str]], command: str, found: Layout) -> Step | None:
    args: list[str] = []
    total = next((value for name, value in given if name in ("np", "n", "c")), "")
    per_node = found.tasks
    if total.isdigit() and int(total[:9]) != found.total:
        if int(total[:9]) % found.nodes or not 0 < int(total[:9]) <= 1024 * found.nodes:
            return None
        per_node = int(total[:9]) // found.nodes
    for name, value in given:
        if name in _MPI_FILLED:
            continue
        words = [f"--{name}" if len(name) > 1 else f"-{name}", *value.split(" ")] if value else [f"--{name}"]
        if any("$" in word or '"' in word or "'" in word for word in words):
            return None
        args += words
    return Step(command, per_node, args=tuple(args))


def _words(line: str, start: int) -> list[tuple[int, str]]:
    """Return the words of a line from a place on, each with where it begins, quotes left in."""
    found = re.finditer(r"(?:\\\n|[^\s'\"\\]|\\.|'[^']*'|\"(?:\\.|[^\"\\])*\")+", line[start:], re.DOTALL)
    return [(start + match.start(), match[0]) for match in found if match[0].strip("\\\n")]


def _options(
    words: Sequence[tuple[int, str]], valued: frozenset[str], bare: frozenset[str], two: str
) -> tuple[list[tuple[str, str]], int] | None:
    """Return the options before the command, and where that begins; None when an option is not known."""
    given: list[tuple[str, str]] = []
    position = 0
    while position < len(words):
        place, word = words[position]
        if not word.startswith("-"):
            return (given, place) if not _SUBSTITUTION.match(word) else None
        position += 1
        bare_word, equals, value = word.lstrip("-").partition("=")
        if word.startswith("--") or two:
            name = bare_word
            if equals or (name in bare and name not in valued):
                given.append((name, _unquoted(value)))
                continue
            if name in bare and name in valued:
                given.append((name, ""))
                continue
            count = 2 if two and name == two else 1
        else:
            name, value = word[1], word[2:]
            if name in bare and name not in valued:
                if any(letter not in bare for letter in value):
                    return None
                given += [(letter, "") for letter in word[1:]]
                continue
            if value:
                if name not in valued:
                    return None
                given.append((name, _unquoted(value)))
                continue
            count = 1
        if name not in valued or position + count > len(words):
            return None
        given.append((name, " ".join(_unquoted(one) for _, one in words[position : position + count])))
        position += count
    return None


def _unquoted(word: str) -> str:
    word = re.sub(r"\$\{(\w+)\}", r"$\1", word)
    return word[1:-1] if len(word) > 1 and word[0] == word[-1] and word[0] in "\"'" else word
