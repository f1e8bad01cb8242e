"""From a text or a JSON value to job specifications, or to everything that is wrong with it.

`fields` says what each field takes; here they become one value, and what they say of one another is checked. Pure:
reads no file, no environment, no database.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from dujiang.jobs.spec.distributed import ALONE
from dujiang.jobs.spec.distributed_fields import check_distributed
from dujiang.jobs.spec.elsewhere import ELSEWHERE
from dujiang.jobs.spec.fields import job_fields
from dujiang.jobs.spec.model import (
    DEFAULT_GRACE_S,
    WEIGHT_BANDS,
    JobClass,
    JobSpec,
    Kind,
    Outputs,
    Resources,
    Retry,
)
from dujiang.jobs.spec.place import ANYWHERE, NodeRange
from dujiang.jobs.spec.place_fields import check_deadline, check_placement
from dujiang.kit.spec.problems import Problem, Problems, Refused, SpecInvalid
from dujiang.kit.spec.readers import (
    Record,
    Schema,
)
from dujiang.kit.spec.yaml import Located, documents, from_value
from dujiang.kit.units import format_milli

MAX_JOBS: Final = 1000
"""In one text."""


def parse(source: str | bytes, *, default_name: str = "job") -> list[JobSpec]:
    """Return the jobs of a YAML or JSON text: one per document, or per item where a document is a list.

    Raises:
        SpecInvalid: with every problem found, each with line and column.
    """
    problems = Problems()
    found = _jobs(documents(source, problems), problems)
    specs: list[JobSpec] = []
    for index, located in enumerate(found):
        path = f"[{index}]" if len(found) > 1 else ""
        try:
            specs.append(job_reader(default_name).read(located, path, problems))
        except Refused:
            continue
    problems.raise_if_any()
    return specs


def read(document: Any, *, default_name: str = "job") -> JobSpec:
    """Return the job of a value decoded from JSON.

    Raises:
        SpecInvalid: with every problem found.
    """
    problems = Problems()
    try:
        spec = job_reader(default_name).read(from_value(document), "", problems)
    except Refused:
        problems.raise_if_any()
        raise
    problems.raise_if_any()
    return spec


def _jobs(found: list[Located], problems: Problems) -> list[Located]:
    jobs: list[Located] = []
    for document in found:
        if isinstance(document.value, tuple):
            jobs.extend(document.value)
        elif document.value is not None:
            jobs.append(document)
    if len(jobs) > MAX_JOBS:
        raise SpecInvalid([Problem("", f"{len(jobs)} jobs stand here; one text holds at most {MAX_JOBS}.")])
    if not jobs:
        problems.add("", "There is no job here.", "Write at least: run: echo hello", at=(None, None))
    return jobs


def _middle(job_class: JobClass) -> int:
    return sum(WEIGHT_BANDS[job_class]) // 2


def _band_schemas() -> list[Schema]:
    conditions: list[Schema] = []
    for job_class, (least, most) in WEIGHT_BANDS.items():
        weight = {"weight": {"minimum": least / 1000, "maximum": most / 1000}}
        chosen: Schema = {"properties": {"class": {"const": job_class.value}}}
        if job_class is not JobClass.NORMAL:
            chosen["required"] = ["class"]
        conditions.append({"if": chosen, "then": {"properties": weight}})
    return conditions


@lru_cache(maxsize=16)
def job_reader(default_name: str = "job") -> Record[JobSpec]:
    """Return the reader of one job, with the name of a job that gives none."""

    def build(given: dict[str, Any], value: Located, path: str, problems: Problems) -> JobSpec:
        job_class = given.get("class", JobClass.NORMAL)
        kind = given.get("kind", Kind.TASK)
        weight = given.get("weight", _middle(job_class))
        _check_weight(weight, job_class, value, path, problems)
        if kind is Kind.SERVICE and given.get("ports") == 0:
            problems.add(
                f"{path}.ports".lstrip("."), "A service needs a port.", "Write ports: 1.", at=_place(value, "ports")
            )
        _check_names(given, value, path, problems)
        check_placement(given, value, path, problems)
        check_deadline(given, value, path, problems)
        check_distributed(given, value, path, problems)
        nodes = given.get("nodes", NodeRange(1))
        return JobSpec(
            name=given.get("name", default_name),
            run=given["run"],
            project=given.get("project"),
            kind=kind,
            job_class=job_class,
            weight_milli=weight,
            resources=given.get("resources", Resources()),
            nodes=nodes.most,
            nodes_min=nodes.least,
            setup=given.get("setup", ""),
            env=given.get("env", {}),
            secrets=given.get("secrets", {}),
            params=given.get("params", {}),
            image=given.get("image"),
            workdir=given.get("workdir"),
            checkpoint=given.get("checkpoint"),
            retry=given.get("retry", Retry()),
            time_limit_s=given.get("time_limit"),
            grace_s=given.get("grace", DEFAULT_GRACE_S),
            ports=given.get("ports", 1 if kind is Kind.SERVICE else 0),
            inputs=given.get("inputs", ()),
            outputs=given.get("outputs", Outputs()),
            labels=given.get("labels", {}),
            after=given.get("after", ()),
            array=given.get("array"),
            placement=given.get("placement", ANYWHERE),
            queue=given.get("queue"),
            deadline=given.get("deadline"),
            distributed=given.get("distributed", ALONE),
        )

    return Record("a job", job_fields(), build, ELSEWHERE, {"allOf": _band_schemas()})


def _check_weight(weight: int, job_class: JobClass, value: Located, path: str, problems: Problems) -> None:
    least, most = WEIGHT_BANDS[job_class]
    if least <= weight <= most:
        return
    fitting = [other.value for other, (low, high) in WEIGHT_BANDS.items() if low <= weight <= high]
    other = f", or class {fitting[0]}" if fitting else ""
    message = f"The weight {format_milli(weight)} is outside the band of class {job_class.value}."
    instead = f"Write {format_milli(least)} to {format_milli(most)}{other}."
    problems.add(f"{path}.weight".lstrip("."), message, instead, at=_place(value, "weight"))


def _check_names(given: dict[str, Any], value: Located, path: str, problems: Problems) -> None:
    for name in given.get("secrets", {}):
        if name in given.get("env", {}):
            message = f"{name} is both a variable and a secret."
            problems.add(f"{path}.secrets.{name}".lstrip("."), message, "Keep one.", at=_place(value, "secrets"))


def _place(value: Located, name: str) -> tuple[int | None, int | None]:
    entry = value.value.get(name) if isinstance(value.value, Mapping) else None
    return entry.value.at if entry is not None else value.at
