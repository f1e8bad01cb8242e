"""Finds out what a text describes, and has each piece of work in it converted: the one door of this package."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from dujiang.jobs.converting.draft import Converted
from dujiang.jobs.converting.kubernetes.environment import ConfigMaps
from dujiang.jobs.converting.kubernetes.kubeflow import TRAINERS, convert_training
from dujiang.jobs.converting.kubernetes.trainjob import convert_train_job
from dujiang.jobs.converting.kubernetes.work import convert_job, convert_pod
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import Note, Report, names
from dujiang.jobs.converting.slurm.lines import looks_like_script
from dujiang.jobs.converting.slurm.sbatch import Around, convert_sbatch
from dujiang.jobs.spec.read import MAX_JOBS, job_reader
from dujiang.kit.errors import did_you_mean
from dujiang.kit.spec.problems import Problem, Problems, Refused, SpecInvalid, quote
from dujiang.kit.spec.yaml import MAX_BYTES, Located, decode, documents

_Converter = Callable[[Part, str, Report, ConfigMaps], Converted]


def _training(kind: str) -> _Converter:
    return lambda whole, source, report, maps: convert_training(whole, kind, source, report, maps)


_VERSIONS: Final[Mapping[str, Sequence[str]]] = {
    "Job": ("batch/v1",), "Pod": ("v1",), "TrainJob": ("trainer.kubeflow.org/v1alpha1",),
    "MPIJob": ("kubeflow.org/v1", "kubeflow.org/v2beta1"),
    **dict.fromkeys(("TFJob", "PyTorchJob", "JAXJob"), ("kubeflow.org/v1",)),
}  # fmt: skip
_CONVERTERS: Final[Mapping[str, _Converter]] = {
    "Job": convert_job, "Pod": convert_pod, "TrainJob": convert_train_job,
    **{kind: _training(kind) for kind in TRAINERS},
}  # fmt: skip
_BESIDE: Final = names(
    "ConfigMap Secret Service ServiceAccount Namespace PersistentVolume PersistentVolumeClaim Role RoleBinding "
    "ClusterRole ClusterRoleBinding LocalQueue ClusterQueue ResourceFlavor PriorityClass WorkloadPriorityClass "
    "NetworkPolicy ResourceQuota LimitRange PodDisruptionBudget"
)
"""What stands beside work in such files and is none."""
_ELSEWHERE: Final[Mapping[str, str]] = {
    "CronJob": "Convert its jobTemplate as a Job, and have it submitted by `dujiang schedule create --cron`.",
    "Deployment": "Convert its template as a Pod, and write kind: service.",
    "StatefulSet": "Convert its template as a Pod, and write kind: service.",
    "ReplicaSet": "Convert its template as a Pod, and write kind: service.",
    "DaemonSet": "What runs on every node is for operators; a job runs where there is room.",
    "JobSet": "Convert each of its jobs by itself, and let them wait for one another by after.",
    "RayJob": "Write its entrypoint as run.",
    "RayCluster": "Write what runs on it as a job.",
    "XGBoostJob": "Write what its replicas run as one job with nodes; MASTER_ADDR and RANK tell ranks apart.",
    "PaddleJob": "Write what its replicas run as one job with nodes; MASTER_ADDR and RANK tell ranks apart.",
    "MXJob": "Write what its replicas run as one job with nodes; MASTER_ADDR and RANK tell ranks apart.",
    "Workflow": "Write its steps as jobs that wait for one another by after.",
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """What became of a text."""

    items: tuple[Converted, ...]
    """In the order of the text."""
    notes: tuple[Note, ...] = ()
    """On what stands there and is no work."""


def is_foreign(source: str | bytes) -> bool:
    """Say whether a text describes work in words that are not ours: a batch script, or objects of Kubernetes.

    Never raises: what cannot be read is for whoever reads it to say.
    """
    text = source[: MAX_BYTES + 1].decode("utf-8", "replace") if isinstance(source, bytes) else source
    text = text.removeprefix("\ufeff")
    if looks_like_script(text):
        return True
    return re.search(r"""(^|[{,\s\[])["']?apiVersion["']?\s*:""", text) is not None and _has_objects(text)


def _has_objects(text: str) -> bool:
    try:
        found = _flat(documents(text, Problems()))
    except SpecInvalid:
        return re.search(r"^[-\s{\"']*apiVersion", text, re.MULTILINE) is not None
    return any(isinstance(one.value, Mapping) and "apiVersion" in one.value for one in found)


def convert(source: str | bytes, around: Around | None = None) -> Conversion:
    """Return the jobs of a text in somebody else's words; documents in our own words may stand among them.

    Args:
        source: a batch script, or YAML or JSON with objects of Kubernetes.
        around: what a script means of the place where it is submitted.

    Raises:
        SpecInvalid: with every problem found, each with its line: not readable, of a kind that cannot be a job here, or
            asking for what no job here can have.
    """
    around = around or Around()
    problems = Problems()
    text = decode(source)
    if looks_like_script(text):
        try:
            return Conversion((convert_sbatch(text, problems, around),))
        except Refused:
            problems.raise_if_any()
            raise
    found = _flat(documents(source, problems))
    if len(found) > MAX_JOBS:
        raise SpecInvalid([Problem("", f"{len(found)} objects stand here; one text holds at most {MAX_JOBS}.")])
    conversion = _Objects(problems, around).converted(found)
    problems.raise_if_any()
    return conversion


def _flat(found: Sequence[Located]) -> list[Located]:
    """Return the objects of documents: those of lists, and of the kind List, one by one."""
    flat: list[Located] = []
    for one in found:
        inner = one.value
        if isinstance(inner, tuple):
            flat += _flat(inner)
        elif isinstance(inner, Mapping) and "items" in inner and _word(one, "kind").endswith("List"):
            items = inner["items"].value.value
            flat += _flat(items) if isinstance(items, tuple) else []
        elif inner is not None:
            flat.append(one)
    return flat


def _word(one: Located, name: str) -> str:
    if isinstance(one.value, Mapping) and name in one.value:
        value = one.value[name].value.value
        return value if isinstance(value, str) else ""
    return ""


class _Objects:
    def __init__(self, problems: Problems, around: Around) -> None:
        self._problems, self._around = problems, around

    def converted(self, found: Sequence[Located]) -> Conversion:
        beside = Report(self._problems)
        maps = {name: data for one in found for name, data in self._config_map(one)}
        items: list[Converted] = []
        for one in found:
            try:
                made = self._one(one, beside, maps)
            except Refused:
                continue
            if made is not None:
                items.append(made)
        if not items and not len(self._problems):
            self._problems.add("", "There is no work here.", "A Job, a Pod or a training job is.", at=(None, None))
        return Conversion(tuple(items), beside.notes)

    def _config_map(self, one: Located) -> list[tuple[str, dict[str, str]]]:
        if _word(one, "kind") != "ConfigMap":
            return []
        try:
            part = Part(one, "", Report(Problems()), "a ConfigMap")
            metadata = part.part("metadata", "metadata")
            name = metadata.text("name") if metadata else None
            return [(name, {key: value for key, (value, _) in part.table("data").items()})] if name else []
        except Refused:
            return []  # it is told as what it is when its turn comes

    def _one(self, one: Located, beside: Report, maps: ConfigMaps) -> Converted | None:
        if isinstance(one.value, Mapping) and "apiVersion" not in one.value and _word(one, "kind") not in _CONVERTERS:
            return self._own(one)
        report = Report(self._problems)
        if not isinstance(one.value, Mapping):
            message = "This is neither an object of Kubernetes nor a batch script."
            raise report.refuse("", message, "A batch script begins with #!/bin/sh, or another interpreter.", at=one.at)
        whole = Part(one, "", report, "an object of Kubernetes")
        version, kind = whole.text("apiVersion") or "", whole.text("kind") or ""
        if kind in _BESIDE:
            why = (
                "It is no work." if kind != "ConfigMap" else "It is no work; what the jobs here take from it they have."
            )
            beside.note(kind, "Left out.", why, at=one.at)
            return None
        self._check(whole, version, kind)
        metadata = one.value["metadata"].value if isinstance(one.value, Mapping) and "metadata" in one.value else one
        name = _word(metadata, "name") or _word(metadata, "generateName")
        source = f"{version} {kind}" + (f" {quote(name)}" if name else "")
        return _CONVERTERS[kind](whole, source, report, maps)

    def _own(self, one: Located) -> Converted:
        """Read a document in our own words."""
        spec = job_reader(self._around.name).read(one, "", self._problems)
        return Converted("a job of ours", one.line, spec, spec.document(), ())

    def _check(self, whole: Part, version: str, kind: str) -> None:
        """Raise Refused unless the kind can be converted."""
        at = whole.at("kind")
        if not kind:
            message = 'The field "kind" is missing.'
            raise whole.report.refuse("kind", message, f"Write such as kind: {_KINDS[0]}.", at=whole.place)
        if kind in _ELSEWHERE:
            raise whole.report.refuse("kind", f"The kind {kind} cannot be converted.", _ELSEWHERE[kind], at=at)
        if kind not in _CONVERTERS:
            near = did_you_mean(kind, list(_CONVERTERS)) or _near(kind)
            message = f"The kind {quote(kind)} is not known here."
            instead = f"{near.strip()} Converted are {', '.join(_KINDS)}.".strip()
            raise whole.report.refuse("kind", message, instead, at=at)
        if version not in _VERSIONS[kind]:
            known = " or ".join(_VERSIONS[kind])
            message = (
                f"The kind {kind} of {quote(version)} is not known here."
                if version
                else 'The field "apiVersion" is missing.'
            )
            raise whole.report.refuse("apiVersion", message, f"Write apiVersion: {known}.", at=whole.at("apiVersion"))


_KINDS: Final = tuple(_CONVERTERS)


def _near(kind: str) -> str:
    """Look for a near name without regard to case."""
    by_low = {name.casefold(): name for name in _CONVERTERS}
    near = did_you_mean(kind, sorted(by_low))
    found = re.search(r'"(.+)"', near)
    return f'Did you mean "{by_low[found[1]]}"?' if found else ""
