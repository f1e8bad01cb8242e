"""The field `distributed`, and what it says of the other fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dujiang.jobs.spec.distributed import ALONE, LONGEST_RUN_BYTES, ONE_EACH, STARTED, Distributed, Launcher
from dujiang.jobs.spec.model import Gpu, Kind, Resources
from dujiang.jobs.spec.place import NodeRange
from dujiang.kit.spec.problems import Problems
from dujiang.kit.spec.readers import Choice, Field, Many, Mapped, OneOf, Reader, Record, Text, Whole
from dujiang.kit.spec.yaml import Located

_LAUNCHER: Final = Choice(Launcher)
_MOST_PROCESSES: Final = 1024
_SHARES_DEVICES: Final = frozenset({Launcher.NONE, Launcher.MPI})
"""Launchers whose processes may do without a device each: the others are for NCCL, which takes none twice."""

DISTRIBUTED: Reader[Distributed] = OneOf(
    Record(
        "a distributed launch",
        [
            Field("launcher", _LAUNCHER, "What starts the processes.", required=True, examples=["torchrun"]),
            Field(
                "processes",
                Whole(1, _MOST_PROCESSES, "Write how many processes each node of the job gets."),
                "On each node.",
                default_note="Default: one for each of its whole devices, one where it has none.",
                examples=[4],
            ),
            Field(
                "args",
                Many(Text("a word for the launcher", 4096), "words", 100),
                "Further words for the launcher itself, before the program.",
                examples=[["--mixed_precision", "bf16"]],
            ),
        ],
        lambda given, *_: Distributed(given["launcher"], given.get("processes"), given.get("args", ())),
        {
            **dict.fromkeys(("name", "kind", "type", "framework", "backend"), "Write launcher."),
            **dict.fromkeys(
                ("nproc_per_node", "nproc", "num_processes", "processes_per_node", "slots", "devices"),
                "Write processes: how many on each node.",
            ),
            **dict.fromkeys(("nnodes", "num_nodes", "nodes", "num_machines"), "Write nodes beside distributed."),
            **dict.fromkeys(("arguments", "options", "flags", "extra_args"), "Write args."),
            **dict.fromkeys(
                ("master_addr", "master_port", "rdzv_endpoint", "hostfile", "node_rank", "hosts"),
                "The platform fills it in; leave it out.",
            ),
        },
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_LAUNCHER, lambda word, *_: Distributed(word)),
    [_LAUNCHER.schema()],
)


def check_distributed(given: dict[str, Any], value: Located, path: str, problems: Problems) -> None:
    """Note what is wrong with a distributed launch beside the other fields."""
    wanted: Distributed = given.get("distributed", ALONE)
    launcher, names = wanted.launcher, value.value if isinstance(value.value, Mapping) else {}
    entry = names.get("distributed")
    if entry is None or "distributed" not in given:
        return
    found = _beside_itself(wanted)
    if launcher is not Launcher.NONE:
        if given.get("kind") is Kind.SERVICE:
            found.append(("", "A service answers from each node by itself; it has no ranks.", "Leave it out."))
        found += _with_run(launcher, str(given.get("run", "")))
    if not ("resources" in names and "resources" not in given):
        nodes: NodeRange = given.get("nodes", NodeRange(1))
        found += _with_devices(wanted, given.get("resources", Resources()), nodes.most)
    here = f"{path}.distributed".lstrip(".")
    for inner, message, instead in found:
        problems.add(f"{here}.{inner}".rstrip("."), message, instead, at=entry.value.at)


def _beside_itself(wanted: Distributed) -> list[tuple[str, str, str]]:
    launcher, found = wanted.launcher, []
    if wanted.processes is not None and wanted.processes > 1 and launcher in ONE_EACH:
        message = f"With {launcher}, each node has one process, which sees all its devices."
        found.append(("processes", message, "Leave processes out, or give the job more nodes."))
    if wanted.args and launcher not in STARTED:
        message = f"With {launcher}, run is started as it is: there is no launcher that takes words."
        found.append(("args", message, "Write them into run."))
    return found


def _with_run(launcher: Launcher, run: str) -> list[tuple[str, str, str]]:
    if run.startswith("#!"):
        message = f"run names its own interpreter by #!, and with {launcher} it is shell text."
        return [("", message, "Write a command, such as python train.py.")]
    if launcher in STARTED and len(run.encode(errors="surrogateescape")) > LONGEST_RUN_BYTES:
        message = f"run is longer than the {LONGEST_RUN_BYTES} bytes that can be handed to {launcher}."
        return [("", message, "Put it into a file and run that.")]
    return []


def _with_devices(wanted: Distributed, resources: Resources, nodes: int) -> list[tuple[str, str, str]]:
    """Say what NCCL would: it takes no device for two ranks."""
    launcher, processes = wanted.launcher, wanted.processes or 1
    if launcher in _SHARES_DEVICES:
        return []
    for gpu in (choice.gpu for choice in resources.choices):
        if gpu is None:
            continue
        if gpu.count == 0 and (launcher in STARTED or launcher is Launcher.LIGHTNING or nodes > 1):
            return [("", _of_share(launcher, gpu), "Ask for whole devices: gpu: 1.")]
        if gpu.count and processes > gpu.count:
            message = f"{processes} processes on each node do not get a device each: the node has {gpu.count}."
            return [("processes", message, f"Write {gpu.count}, or leave it out.")]
    return []


def _of_share(launcher: Launcher, gpu: Gpu) -> str:
    return f"{launcher} gives each process whole devices, and the job asks for {gpu.gpu_milli / 1000:g} of one."
