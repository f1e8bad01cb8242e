"""Command lines that begin with a launcher (`torchrun --nproc_per_node 8 train.py`): which, how many processes on each
node, what is left of its options, and the program itself. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dujiang.jobs.converting.commands import Piece, Word, fixed, is_fixed
from dujiang.jobs.converting.report import names

# Options of each launcher: those the platform fills in, and those that take a word and are handed on.
_TORCH_FILLED: Final = names(
    "nnodes nproc-per-node node-rank rdzv-backend rdzv-endpoint rdzv-id master-addr master-port max-restarts "
    "local-addr standalone run-path use-env no-python module m"
)
_TORCH_FLAGS: Final = names("standalone use-env no-python module m run-path")
_TORCH_VALUED: Final = names(
    "rdzv-conf monitor-interval start-method role log-dir redirects tee local-ranks-filter logs-specs "
    "log-line-prefix-template r t"
)
_MPI_FILLED: Final = names("np n c hostfile machinefile host H N npernode map-by ppr")
_MPI_VALUED: Final = names("x bind-to rank-by output-filename wdir wd path prefix timeout report-pid")
_MPI_FLAGS: Final = names(
    "allow-run-as-root oversubscribe tag-output timestamp-output report-bindings quiet q verbose v nooversubscribe "
    "display-map"
)
_MPI_TWO: Final = frozenset(("mca", "gmca"))
_HOROVOD_FILLED: Final = names("np num-proc H hosts hostfile min-np max-np host-discovery-script p ssh-port")
_HOROVOD_VALUED: Final = names(
    "timeline-filename fusion-threshold-mb cycle-time-ms cache-capacity log-level mpi-args start-timeout"
)
_HOROVOD_FLAGS: Final = names("gloo mpi verbose autotune disable-cache")


@dataclass(frozen=True, slots=True)
class Launch:
    """What a command line starts, and how."""

    launcher: str
    """As `distributed` names it."""
    program: tuple[Word, ...]
    processes: int | None = None
    """On each node, where it says so."""
    total: int | None = None
    """On all nodes, where it says so."""
    args: tuple[str, ...] = ()
    """Options that are handed on to it."""
    filled: tuple[str, ...] = ()
    """Options that the platform fills in itself."""
    restarts: int | None = None


def launch_of(words: Sequence[Word]) -> Launch | None:
    """Return what a command line with a launcher starts; None when it has none, or one that cannot be told apart."""
    if not words or not is_fixed(words[0]):
        return None
    name = fixed(words[0]).rpartition("/")[2]
    if name.startswith("python") and len(words) > 2 and fixed(words[1]) == "-m":
        module = fixed(words[2])
        if module in ("torch.distributed.run", "torch.distributed.launch"):
            return _torch(words[3:], words[0])
        return None
    match name:
        case "torchrun":
            return _torch(words[1:], _word("python"))
        case "mpirun" | "mpiexec":
            return _counted("mpi", words[1:], _MPI_FILLED, _MPI_VALUED, _MPI_FLAGS)
        case "horovodrun":
            return _counted("horovod", words[1:], _HOROVOD_FILLED, _HOROVOD_VALUED, _HOROVOD_FLAGS)
    return None


def _torch(words: Sequence[Word], python: Word) -> Launch | None:
    read = _options(words, _TORCH_FILLED | _TORCH_VALUED, _TORCH_FLAGS)
    if read is None or not read.rest:
        return None
    given = read.given
    program: tuple[Word, ...] = tuple(read.rest)
    if "m" in given or "module" in given:
        program = (python, _word("-u"), _word("-m"), *program)
    elif "no-python" not in given:
        program = (python, _word("-u"), *program)
    handed = tuple(word for name, found in read.written if name not in _TORCH_FILLED for word in found)
    filled = tuple(dict.fromkeys(name for name, _ in read.written if name in _TORCH_FILLED - _TORCH_FLAGS))
    restarts = given.get("max-restarts", "")
    return Launch(
        "torchrun", program, _count(given.get("nproc-per-node")), None, handed,
        tuple(name for name in filled if name not in ("nproc-per-node", "max-restarts")),
        int(restarts) if restarts.isdigit() else None,
    )  # fmt: skip


def _counted(
    launcher: str, words: Sequence[Word], filled: frozenset[str], valued: frozenset[str], flags: frozenset[str]
) -> Launch | None:
    read = _options(words, filled | valued, flags, _MPI_TWO if launcher == "mpi" else frozenset())
    if read is None or not read.rest:
        return None
    given = read.given
    total = next((_count(given[name]) for name in ("np", "n", "c", "num-proc") if name in given), None)
    per_node = next((_count(given[name]) for name in ("N", "npernode") if name in given), None)
    handed = tuple(word for name, found in read.written if name not in filled for word in found)
    told = tuple(name for name in dict.fromkeys(name for name, _ in read.written) if name in filled)
    counts = {"np", "n", "c", "num-proc", "N", "npernode"}
    return Launch(
        launcher, tuple(read.rest), per_node, total, handed, tuple(name for name in told if name not in counts)
    )


@dataclass(frozen=True, slots=True)
class _Read:
    given: Mapping[str, str]
    written: Sequence[tuple[str, tuple[str, ...]]]
    rest: Sequence[Word]


def _options(
    words: Sequence[Word], valued: frozenset[str], flags: frozenset[str], two: frozenset[str] = frozenset()
) -> _Read | None:
    """Return the options before the program; None when one is not known, so that nobody can say where it begins."""
    given: dict[str, str] = {}
    written: list[tuple[str, tuple[str, ...]]] = []
    position = 0
    while position < len(words):
        if not is_fixed(words[position]):
            return None
        text = fixed(words[position])
        if text == "--":
            position += 1
            break
        if not text.startswith("-") or text == "-":
            break
        bare, equals, value = text.lstrip("-").partition("=")
        name = bare.replace("_", "-")
        taken = 0 if equals or name in flags else 2 if name in two else 1
        if name not in flags | two | valued or position + taken >= len(words):
            return None
        found = [fixed(word) for word in words[position + 1 : position + 1 + taken]]
        if not all(is_fixed(word) for word in words[position + 1 : position + 1 + taken]) and name not in valued:
            return None
        given[name] = value if equals else (found[0] if found else "true")
        written.append((name, (text, *found)))
        position += 1 + taken
    return _Read(given, written, words[position:])


def _count(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() and int(text[:9]) > 0 else None


def _word(text: str) -> Word:
    return (Piece(text),)
