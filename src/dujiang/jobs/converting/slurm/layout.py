"""How much a batch script asks for on each node: nodes, tasks, cores, memory and devices, as Slurm adds them up."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from dujiang.jobs.converting.amounts import BadAmount, slurm_bytes
from dujiang.jobs.converting.devices import model_of
from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.report import Report
from dujiang.jobs.converting.slurm.lines import Option
from dujiang.jobs.spec.model import exact_size
from dujiang.kit.spec.problems import quote

Given = Mapping[str, Option]
"""Options by name; of one that is given twice, the last."""
SEEN_TO: Final = frozenset(
    (
        "nodes", "ntasks", "ntasks-per-node", "ntasks-per-gpu", "ntasks-per-tres", "cpus-per-task", "cpus-per-gpu",
        "mincpus", "mem", "mem-per-cpu", "mem-per-gpu", "tmp", "gres", "gpus", "gpus-per-node", "gpus-per-task",
        "tres-per-task",
    )
)  # fmt: skip
_COUNT: Final = re.compile(r"([0-9]{1,9})([kKmM]?)")
_TYPE: Final = r"[A-Za-z0-9_.\-]+"
_GPUS: Final = re.compile(rf"(?:(?P<type>{_TYPE}):)?(?P<count>[0-9]{{1,9}}[kKmM]?)")


@dataclass(frozen=True, slots=True)
class Layout:
    """What each node of the job has."""

    nodes: int = 1
    """The most."""
    least_nodes: int | None = None
    tasks: int = 1
    """On each node, the most."""
    total: int = 1
    """Tasks on all nodes."""
    cpus: int = 1
    memory: int | None = None
    """None: nothing is said."""
    gpus: int = 0
    gpu_type: str = ""
    cpus_per_task: int = 1
    says_tasks: bool = False


def count(option: Option, report: Report, least: int = 1) -> int:
    """Return a number as Slurm writes it.

    Raises:
        Refused: it is none; the problem is noted.
    """
    match = _COUNT.fullmatch(option.value.strip())
    number = int(match[1]) * {"": 1, "k": 1024, "m": 2**20}[match[2].lower()] if match else -1
    if number < least:
        message = f"{quote(option.value)} is not a number of at least {least}."
        raise report.refuse(option.path, message, at=option.at)
    return number


def layout(given: Given, report: Report) -> Layout:
    """Return what each node has.

    Raises:
        Refused: an option cannot be read, or they do not go together; the problems are noted.
    """
    numbers = {
        name: count(given[name], report)
        for name in ("ntasks", "ntasks-per-node", "ntasks-per-gpu", "cpus-per-task", "cpus-per-gpu", "mincpus")
        if name in given
    }
    least, most = _nodes(given.get("nodes"), report)
    devices, kind = _devices(given, report)
    per_node, total = numbers.get("ntasks-per-node"), numbers.get("ntasks")
    nodes = most or _nodes_needed(per_node, total, devices)
    if total is not None and total < nodes:
        report.note("--nodes", f"The job has {total} nodes.", f"Slurm starts {total} tasks on no more nodes.",
                    at=given["nodes"].at if "nodes" in given else given["ntasks"].at, kept=True)  # fmt: skip
        nodes = total
    gpus = _per_node(devices, nodes, per_node, total)
    tasks = _tasks(numbers, nodes, gpus, devices)
    all_tasks = total if total is not None else tasks * nodes
    per_task = numbers.get("cpus-per-task", 1)
    cpus = max(tasks * per_task, numbers.get("mincpus", 1), numbers.get("cpus-per-gpu", 0) * gpus)
    if most is None and nodes == 1 and all_tasks > 1 and per_node is None:
        what = f"All {all_tasks} tasks are on one node."
        why = "Slurm puts them on as many as it takes, where nothing says how many."
        report.note("--ntasks", what, why, "Write nodes, and resources for one of them.",
                    at=(given.get("ntasks") or given["ntasks-per-gpu"]).at, kept=True)  # fmt: skip
    if most is None and nodes == 1 and "gpus" in given and gpus > 1:
        why = "Slurm puts them on as many nodes as it takes, where nothing says how many."
        report.note("--gpus", f"All {gpus} devices are on one node.", why, "Write nodes, and gpu for one of them.",
                    at=given["gpus"].at, kept=True)  # fmt: skip
    return Layout(
        nodes, least if least is not None and least < nodes else None, tasks, all_tasks, cpus,
        _memory(given, cpus, gpus, report), gpus, kind, per_task, total is not None or per_node is not None,
    )  # fmt: skip


def _nodes(option: Option | None, report: Report) -> tuple[int | None, int | None]:
    if option is None:
        return None, None
    low, dash, high = option.value.partition("-")
    least = count(Option("nodes", low, *option.at), report)
    most = count(Option("nodes", high, *option.at), report) if dash else least
    if least > most:
        message = f"The fewest nodes, {least}, are more than the most, {most}."
        raise report.refuse("--nodes", message, at=option.at)
    return least, most


@dataclass(frozen=True, slots=True)
class _Devices:
    node: int = 0
    task: int = 0
    job: int = 0


def _devices(given: Given, report: Report) -> tuple[_Devices, str]:
    counts: dict[str, int] = {}
    kind = ""
    for name, word in (("gpus", "job"), ("gpus-per-node", "node"), ("gpus-per-task", "task")):
        option = given.get(name)
        if option is None:
            continue
        items = option.value.split(",")
        match = _GPUS.fullmatch(items[0].strip())
        if match is None:
            message = f"{quote(option.value)} is no number of GPUs, such as 4 or h100:4."
            raise report.refuse(option.path, message, at=option.at)
        _tell_others(items[1:], option, report)
        counts[word], kind = count(Option(name, match["count"], *option.at), report, 0), match["type"] or kind
    if "gres" in given:
        number, kind = _gres(given["gres"], kind, report)
        counts["node"] = counts.get("node") or number
    if "tres-per-task" in given:
        number, kind = _gres(given["tres-per-task"], kind, report)
        counts["task"] = counts.get("task") or number
    return _Devices(**counts), kind


def _gres(option: Option, kind: str, report: Report) -> tuple[int, str]:
    """Return how many GPUs a list of generic resources has, and of which type; the others are noted."""
    number, others = 0, []
    for item in option.value.split(","):
        name, *rest = re.split(r"[:=]", re.sub(r"\(S:[0-9,\-]*\)$", "", item.strip()).removeprefix("gres/"))
        if name != "gpu" or number or len(rest) > 2:
            others.append(item.strip())
            continue
        amount = rest.pop() if rest and _COUNT.fullmatch(rest[-1]) else "1"
        number, kind = count(Option(option.name, amount, *option.at), report, 0), rest[0] if rest else kind
    _tell_others([item for item in others if item and item.lower() != "none"], option, report)
    return number, kind


def _tell_others(items: list[str], option: Option, report: Report) -> None:
    for item in items:
        why = "Only GPUs are counted, and of one type."
        instead = "Label the nodes that have it and write placement: {selector: ...}."
        if item.startswith(("shard", "mps")):
            why, instead = "How much of a device that is depends on the cluster.", "Write gpu: {fraction: ...}."
        report.note(option.path, f"{quote(item)} is not kept.", why, instead, at=option.at)


def _nodes_needed(per_node: int | None, total: int | None, devices: _Devices) -> int:
    if devices.job and devices.node:
        return -(-devices.job // devices.node)
    return -(-total // per_node) if per_node and total else 1


def _per_node(devices: _Devices, nodes: int, per_node: int | None, total: int | None) -> int:
    if devices.node:
        return devices.node
    if devices.task:
        tasks = per_node or -(-(total or nodes) // nodes)
        return devices.task * tasks if total or per_node else max(devices.task, -(-devices.job // nodes))
    return -(-devices.job // nodes)


def _tasks(numbers: Mapping[str, int], nodes: int, gpus: int, devices: _Devices) -> int:
    if "ntasks" in numbers:
        spread = -(-numbers["ntasks"] // nodes)
        return min(numbers["ntasks-per-node"], spread) if "ntasks-per-node" in numbers else spread
    if "ntasks-per-node" in numbers:
        return numbers["ntasks-per-node"]
    if "ntasks-per-gpu" in numbers and gpus:
        return numbers["ntasks-per-gpu"] * gpus
    return max(1, gpus // devices.task) if devices.task and devices.job else 1


def _memory(given: Given, cpus: int, gpus: int, report: Report) -> int | None:
    named = [name for name in ("mem", "mem-per-cpu", "mem-per-gpu") if name in given]
    if len(named) > 1:
        message = f"--{' and --'.join(named)} do not go together."
        raise report.refuse(f"--{named[1]}", message, "Keep one.", at=given[named[1]].at)
    if not named:
        return None
    option = given[named[0]]
    try:
        size = slurm_bytes(option.value)
    except BadAmount as error:
        raise report.refuse(option.path, f"{quote(option.value)}: {error.sentence}", at=option.at) from error
    if size == 0:
        why = "It means all memory of the node, and nodes here differ."
        report.note(option.path, "Not kept.", why, "Write resources: {memory: ...}.", at=option.at)
        return None
    return size * {"mem": 1, "mem-per-cpu": cpus, "mem-per-gpu": max(1, gpus)}[option.name]


def put_layout(found: Layout, given: Given, draft: Draft, report: Report) -> None:
    """Put what each node has into the draft."""

    def at(*names: str) -> tuple[int | None, int | None]:
        return next((given[name].at for name in names if name in given), (None, None))

    if found.nodes > 1:
        nodes: Any = found.nodes if found.least_nodes is None else {"min": found.least_nodes, "max": found.nodes}
        draft.put(nodes, "nodes", at=at("nodes", "ntasks"))
    draft.put(found.cpus, "resources", "cpu", at=at("cpus-per-task", "ntasks", "ntasks-per-node", "cpus-per-gpu"))
    if found.memory is not None:
        draft.put(exact_size(found.memory), "resources", "memory", at=at("mem", "mem-per-cpu", "mem-per-gpu"))
    elif not any(name in given for name in ("mem", "mem-per-cpu", "mem-per-gpu")):
        why = "Slurm gives a job that asks for none what the partition says, or the whole node."
        report.note("--mem", "The job gets 1GiB on each node.", why, "Write --mem, or resources: {memory: ...}.",
                    at=(None, None), kept=True)  # fmt: skip
    if found.gpus:
        _put_gpu(found, given, draft, report)
    if "tmp" in given:
        draft.put(exact_size(slurm_bytes_of(given["tmp"], report)), "resources", "disk", at=at("tmp"))


def slurm_bytes_of(option: Option, report: Report) -> int:
    """Return the size that an option says.

    Raises:
        Refused: it is none; the problem is noted.
    """
    try:
        return slurm_bytes(option.value)
    except BadAmount as error:
        raise report.refuse(option.path, f"{quote(option.value)}: {error.sentence}", at=option.at) from error


def _put_gpu(found: Layout, given: Given, draft: Draft, report: Report) -> None:
    option = next(given[name] for name in ("gres", "gpus-per-node", "gpus", "gpus-per-task", "tres-per-task")
                  if name in given)  # fmt: skip
    draft.put({"count": found.gpus}, "resources", "gpu", at=option.at)
    if not found.gpu_type:
        return
    model = model_of(found.gpu_type) or found.gpu_type
    draft.put(model, "resources", "gpu", "model", at=option.at)
    if model.lower() != found.gpu_type.lower():
        what = f"The type {quote(found.gpu_type)} is asked for as the model {model}."
        report.note(option.path, what, "A model is a part of the device's own name.", at=option.at, kept=True)
