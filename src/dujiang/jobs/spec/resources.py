"""The field `resources` and what stands in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dujiang.jobs.spec.model import (
    Gpu,
    Resources,
)
from dujiang.jobs.spec.words import MODEL, VENDOR, share, size
from dujiang.kit.spec.problems import Problems
from dujiang.kit.spec.readers import (
    Field,
    Many,
    Mapped,
    OneOf,
    Reader,
    Record,
    Whole,
)
from dujiang.kit.spec.yaml import Located
from dujiang.kit.units import format_milli

_EIGHTHS = {"type": "string", "pattern": "^([1-7]/8|[1-3]/4|1/2|[1-9][0-9]{0,2}m|0?\\.[1-9][0-9]{0,2})$"}
_FRACTION = share(
    1,
    999,
    [_EIGHTHS, {"type": "number", "minimum": 0.001, "maximum": 0.999, "multipleOf": 0.001}],
    "Write a share of one device, such as 0.5 or 1/8, or whole devices as count.",
)
_MAX_GPUS = 1024
_GPU_AMOUNT = share(
    0,
    _MAX_GPUS * 1000,
    [{"type": "integer", "minimum": 0, "maximum": _MAX_GPUS}, *_FRACTION.described["anyOf"]],
    "Write 1, 2, 8 ... or a share of one device such as 0.5 or 1/8.",
)
_CPU = share(
    10,
    100_000_000,
    [
        {"type": "number", "minimum": 0.01, "maximum": 100_000, "multipleOf": 0.001},
        {"type": "string", "pattern": "^([1-9][0-9]{2,4}m|[1-9][0-9]{0,3}(\\.[0-9]{1,3})?)$"},
    ],
    "Write cores: 4, 0.5 or 500m.",
)


def _gpu_of_amount(milli: int, value: Located, path: str, problems: Problems) -> Gpu | None:
    if milli > 1000 and milli % 1000:
        message = f"{format_milli(milli)} is neither whole devices nor a share of one."
        raise problems.refuse(
            path, message, f"Write {milli // 1000}, {milli // 1000 + 1}, or a share below 1.", at=value.at
        )
    return Gpu(milli) if milli else None


def _gpu(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Gpu | None:
    if "count" in given and "fraction" in given:
        raise problems.refuse(path, "Both count and fraction are given.", "Keep one of them.", at=value.at)
    milli = given["fraction"] if "fraction" in given else 1000 * given.get("count", 1)
    return Gpu(milli, given.get("memory"), given.get("vendor"), given.get("model")) if milli else None


_GPU: Reader[Gpu | None] = OneOf(
    Record(
        "a GPU request",
        [
            Field(
                "count",
                Whole(0, _MAX_GPUS, "Write whole devices; a share of one is fraction."),
                "Whole devices for each node of the job.",
                default=1,
                default_note="Default 1 unless fraction is given.",
            ),
            Field(
                "fraction",
                _FRACTION,
                "A share of one device, in any thousandth: 0.5, 1/8, 125m.",
                examples=["1/8", 0.5],
            ),
            Field(
                "memory",
                size(2**20, 2**48),
                "Device memory: for a share, how much of it; for whole devices, the least that each has.",
                default_note="Default: the same share of the device's memory.",
                examples=["40GiB"],
            ),
            Field("vendor", VENDOR, "The maker of the device.", default_note="Default: any.", examples=["nvidia"]),
            Field(
                "model",
                MODEL,
                "Part of the device's model name, upper or lower case.",
                default_note="Default: any.",
                examples=["H100"],
            ),
        ],
        _gpu,
        {
            "gpus": "Write count.",
            "number": "Write count.",
            "amount": "Write count.",
            "milli": "Write fraction.",
            "share": "Write fraction.",
            "mem": "Write memory.",
            "vram": "Write memory.",
            "type": "Write model.",
            "name": "Write model.",
            "kind": "Write model.",
            "manufacturer": "Write vendor.",
            "any_of": "Write it beside gpu: resources: {any_of: [{gpu: ...}, {gpu: ...}]}.",
        },
        {"not": {"required": ["count", "fraction"]}},
    ),
    lambda value: None if isinstance(value.value, Mapping) else Mapped(_GPU_AMOUNT, _gpu_of_amount),
    [_GPU_AMOUNT.described],
)

_AMOUNTS = [
    Field(
        "gpu",
        _GPU,
        "Accelerators for each node of the job: 2, 0.5, 1/8, or a mapping.",
        default_note="Default: none.",
        examples=[2, "1/8", {"count": 8, "model": "H100"}],
    ),
    Field("cpu", _CPU, "Cores for each node of the job: 4, 0.5 or 500m.", default=1, examples=[4, "500m"]),
    Field(
        "memory",
        size(2**20, 2**48),
        "Main memory for each node of the job; plain numbers are bytes.",
        default="1GiB",
        examples=["16GiB"],
    ),
    Field(
        "disk",
        size(0, 2**48),
        "Local disk for each node of the job; plain numbers are bytes.",
        default=0,
        examples=["100GiB"],
    ),
]


def _resources(given: dict[str, Any], value: Located, path: str, problems: Problems) -> Resources:
    choices: tuple[dict[str, Any], ...] = given.get("any_of", ({},))
    if "gpu" in given and any("gpu" in choice for choice in choices):
        message = "gpu stands beside any_of and in it, where it counts instead."
        problems.add(f"{path}.gpu", message, "Write it in each item of any_of alone.", at=_at(value, "gpu"))
    # Two that ask for the same are one.
    best, *rest = dict.fromkeys(_amounts({**given, **choice}) for choice in choices)
    return replace(best, alternatives=tuple(rest))


def _amounts(given: Mapping[str, Any]) -> Resources:
    return Resources(
        cpu_milli=given.get("cpu", 1000),
        memory_bytes=given.get("memory", 2**30),
        disk_bytes=given.get("disk", 0),
        gpu=given.get("gpu"),
    )


def _at(value: Located, name: str) -> tuple[int | None, int | None]:
    entry = value.value.get(name) if isinstance(value.value, Mapping) else None
    return entry.value.at if entry is not None else value.at


_ELSEWHERE = {
    "gpus": "Write gpu.",
    "accelerators": "Write gpu.",
    "accelerator": "Write gpu.",
    "devices": "Write gpu.",
    "nvidia.com/gpu": "Write gpu.",
    "cpus": "Write cpu.",
    "cores": "Write cpu.",
    "vcpu": "Write cpu.",
    "mem": "Write memory.",
    "ram": "Write memory.",
    "storage": "Write disk.",
    "disk_size": "Write disk.",
    "nodes": "nodes stands beside resources, not in it.",
    "limits": "There is one figure for each resource: the limit.",
    "requests": "There is one figure for each resource: the limit.",
    "shm_size": "Shared memory counts as memory.",
    "count": "Write gpu: {count: ...}.",
    "model": "Write gpu: {model: ...}.",
}
_CHOICE: Reader[dict[str, Any]] = Record("an alternative", _AMOUNTS, lambda given, *_: dict(given), _ELSEWHERE)
RESOURCES = Record(
    "a resource request",
    [
        *_AMOUNTS,
        Field(
            "any_of",
            Many(_CHOICE, "alternatives", 8, least=1, unique_items=True),
            "Requests of which any will do, the best first; what one leaves out is as beside any_of.",
            examples=[[{"gpu": {"model": "H100", "count": 4}}, {"gpu": {"model": "A100", "count": 8}, "cpu": 16}]],
        ),
    ],
    _resources,
    _ELSEWHERE | dict.fromkeys(("alternatives", "one_of", "options", "flavors"), "Write any_of."),
)
