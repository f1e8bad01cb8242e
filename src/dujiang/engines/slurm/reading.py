"""Reads what Slurm's commands print: pure. What is not understood is left out, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_FIELD = re.compile(r"(?:^|\s)([A-Za-z][\w/:]*)=")
_REASON_BY = re.compile(r"\s*\[[^\[\]]*@[^\[\]]*\]\s*$")
_RANGES = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class Gres:
    """A kind of generic resource on a node."""

    name: str
    """`gpu`, `shard`, `mps` ..."""
    type: str
    """`h100`; empty where the site gives none."""
    count: int


@dataclass(frozen=True, slots=True)
class SlurmNode:
    """A node as `scontrol show node` tells it."""

    name: str
    address: str
    states: frozenset[str]
    """Base state and flags, as `IDLE`, `DRAIN`, `NOT_RESPONDING`."""
    reason: str
    cpus: int
    cpus_used: int
    memory_mib: int
    memory_used_mib: int
    disk_mib: int
    gres: tuple[Gres, ...]
    gres_used: tuple[Gres, ...]
    features: tuple[str, ...]
    partitions: tuple[str, ...]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Nodes that are kept for somebody for a time."""

    name: str
    nodes: tuple[str, ...]
    starts_s: int
    """Since 1970."""
    ends_s: int


def reservations_of(text: str) -> list[Reservation]:
    """Return those of `scontrol show reservation -o`, with times in seconds (`SLURM_TIME_FORMAT=%s`)."""
    found = [fields_of(line) for line in text.splitlines() if line.startswith("ReservationName=")]
    return [
        Reservation(
            told["ReservationName"], tuple(expand(told.get("Nodes", ""))), _number(told.get("StartTime", "")),
            _number(told.get("EndTime", "")),
        )
        for told in found
    ]  # fmt: skip


def fields_of(line: str) -> dict[str, str]:
    """Return the `Name=value` pairs of a line of `scontrol -o`; values may hold blanks."""
    marks = list(_FIELD.finditer(line))
    ends = [mark.start() for mark in marks[1:]] + [len(line)]
    return {mark[1]: line[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=True)}


def nodes_of(text: str) -> list[SlurmNode]:
    """Return the nodes of `scontrol show node -d -o`."""
    return [_node(line) for line in text.splitlines() if line.startswith("NodeName=")]


def _node(line: str) -> SlurmNode:
    head, _, reason = line.partition(" Reason=")
    reason = reason.partition("   Comment=")[0]
    found = fields_of(head)
    state = found.get("State", "UNKNOWN")
    states = {part.rstrip("*~#%$@^-") for part in state.split("+")}
    if "*" in state:
        states.add("NOT_RESPONDING")
    return SlurmNode(
        name=found["NodeName"],
        address=found.get("NodeAddr", found["NodeName"]),
        states=frozenset(states),
        reason=_REASON_BY.sub("", reason).strip(),
        cpus=_number(found.get("CPUEfctv", "")) or _number(found.get("CPUTot", "")),
        cpus_used=_number(found.get("CPUAlloc", "")),
        memory_mib=_number(found.get("RealMemory", "")),
        memory_used_mib=_number(found.get("AllocMem", "")),
        disk_mib=_number(found.get("TmpDisk", "")),
        gres=gres_of(found.get("Gres", "")),
        gres_used=gres_of(found.get("GresUsed", "")),
        features=_words(found.get("ActiveFeatures", "")),
        partitions=_words(found.get("Partitions", "")),
    )


def gres_of(text: str) -> tuple[Gres, ...]:
    """Return the resources of `gpu:h100:8(S:0-1),shard:16` or of `gpu:h100:2(IDX:0-1)`."""
    found: list[Gres] = []
    for part in re.sub(r"\([^)]*\)", "", text).split(","):
        words = part.strip().split(":")
        if len(words) == 2 and words[1].isdigit():
            found.append(Gres(words[0], "", int(words[1])))
        elif len(words) == 3 and words[2].isdigit():
            kind = "" if words[1] == "(null)" else words[1]
            found.append(Gres(words[0], kind, int(words[2])))
    return tuple(found)


def jobs_of(text: str) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield number, state, user, reason and comment of each line of `squeue -h -o '%i|%T|%u|%r|%k'`."""
    for line in text.splitlines():
        number, state, user, reason, comment = (*line.split("|", 4), "", "", "", "")[:5]
        if number.strip().isdigit():
            yield number.strip(), state.strip(), user.strip(), reason.strip(), comment.strip()


def switches_of(text: str) -> dict[str, str]:
    """Return the lowest switch of each node, from `scontrol show topology`."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        told = fields_of(line)
        if told.get("SwitchName") and told.get("Level") == "0":
            found |= dict.fromkeys(expand(told.get("Nodes", "")), told["SwitchName"])
    return found


def expand(text: str) -> list[str]:
    """Return the names of a host list such as `a1,g[001-003,7]-ib`."""
    names: list[str] = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        names.extend(_expand_one(part))
    return names


def _expand_one(part: str) -> list[str]:
    found = _RANGES.search(part)
    if found is None:
        return [part]
    names: list[str] = []
    for piece in found[1].split(","):
        first, _, last = piece.partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            continue
        for number in range(int(first), int(last or first) + 1):
            names.extend(_expand_one(f"{part[: found.start()]}{number:0{len(first)}}{part[found.end() :]}"))
    return names


def _number(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _words(text: str) -> tuple[str, ...]:
    return () if text in ("", "(null)") else tuple(text.split(","))
