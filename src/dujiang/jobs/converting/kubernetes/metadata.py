"""What metadata says of a job: name, project, queue, labels; also in the words of Kueue, KAI and Volcano."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.kubernetes import words as pod_words
from dujiang.jobs.converting.kubernetes.pods import class_of
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import At
from dujiang.kit.spec.problems import quote

_LABEL: Final = re.compile(r"[A-Za-z0-9]([-_./A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_MOST_LABELS: Final = 64
_LONGEST_VALUE: Final = 255
_QUEUES: Final = (
    "kueue.x-k8s.io/queue-name", "kai.scheduler/queue", "runai/queue", "scheduling.volcano.sh/queue-name",
    "volcano.sh/queue-name",
)  # fmt: skip
_PRIORITIES: Final = ("kueue.x-k8s.io/priority-class", "priorityClassName")
_TOPOLOGIES: Final = {
    "kueue.x-k8s.io/podset-required-topology": True,
    "kueue.x-k8s.io/podset-preferred-topology": False,
}
_SEEN_TO: Final = ("gpu-fraction", "gpu-memory", "kubectl.kubernetes.io/default-container")
"""Annotations that are read where they matter."""
_BY_CLUSTER: Final = re.compile(
    r"(batch\.kubernetes\.io/|controller-uid$|job-name$|kubectl\.kubernetes\.io/last-applied-configuration$|"
    r"pod-template-hash$|training\.kubeflow\.org/(job-name|replica-|job-role|operator-name))"
)
_PLACES: Final = {"hostname": "node", "rack": "rack", "block": "site", "zone": "site", "switch": "switch"}


class Words:
    """Labels and annotations as they add up over the parts of a piece of work; the outermost is read first."""

    def __init__(self) -> None:
        self.labels: dict[str, str] = {}
        self.annotations: dict[str, tuple[str, At]] = {}


def take_metadata(whole: Part, draft: Draft, words: Words, *, names: bool = True) -> None:
    """Take `metadata` of a piece of work or of a template in it.

    Args:
        whole: holds the metadata.
        draft: takes name, project, queue, class, labels.
        words: takes labels and annotations, for what refers to them.
        names: the metadata name the job itself.
    """
    metadata = whole.part("metadata", "metadata")
    if metadata is None:
        return
    if names:
        _name(metadata, draft)
    elif "name" in metadata or "namespace" in metadata or "generateName" in metadata:
        for name in ("name", "namespace", "generateName"):
            metadata.lose(name, "Names and projects are of the job as a whole.")
    labels, annotations = metadata.table("labels"), metadata.table("annotations")
    words.labels.update({name: value for name, (value, _) in labels.items()})
    words.annotations.update(annotations)
    for field, found in (("labels", labels), ("annotations", annotations)):
        for name, (value, at) in found.items():
            _word(name, value, at, f"{metadata.under(field)}.{quote(name, 300)[1:-1]}", draft)
    written = [name for name in metadata.names if name in pod_words.WRITTEN_BY_CLUSTER]
    for name in written:
        metadata.take(name)
    if written:
        why = "The cluster wrote this, nobody else."
        draft.report.note(metadata.path, f"Not kept: {', '.join(written)}.", why, at=metadata.at(written[0]))
    metadata.close(pod_words.METADATA, known=pod_words.WRITTEN_BY_CLUSTER)


def _name(metadata: Part, draft: Draft) -> None:
    name, prefix = metadata.text("name"), metadata.text("generateName")
    if name:
        draft.name(name, metadata.under("name"), metadata.at("name"))
    elif prefix:
        draft.name(prefix, metadata.under("generateName"), metadata.at("generateName"))
    namespace = metadata.text("namespace")
    if namespace and namespace != "default":
        draft.put(namespace, "project", at=metadata.at("namespace"))
        what = f"The namespace {quote(namespace)} is the project of that name."
        metadata.note("namespace", what, "", "Write project, if it is called otherwise here.", kept=True)


def _word(name: str, value: str, at: At, path: str, draft: Draft) -> None:
    """Give a label or annotation its meaning; what has none stays a label."""
    if name in _QUEUES:
        draft.put(value, "queue", at=at)
        why = "A queue of that name has to be there; `dujiang queues` lists them."
        draft.report.note(path, f"The job is counted in the queue {quote(value)}.", why, at=at, kept=True)
    elif name in _PRIORITIES:
        draft.put(class_of(value), "class", at=at)
        why = "Priorities of a cluster are not known here."
        instead = "Write class: core, normal or low."
        draft.report.note(
            path, f"{quote(value)} is class {class_of(value)}, by its name.", why, instead, at=at, kept=True
        )
    elif name in _TOPOLOGIES:
        _topology(name, value, at, path, draft)
    elif _BY_CLUSTER.match(name):
        draft.report.note(path, "Not kept.", "The cluster wrote this, nobody else.", at=at)
    elif name not in _SEEN_TO:
        _label(name, value, at, path, draft)


def _topology(name: str, value: str, at: At, path: str, draft: Draft) -> None:
    place = next((ours for word, ours in _PLACES.items() if word in value), None)
    if place is None:
        why = f"{quote(value)} is no place known here: node, switch, rack or site."
        draft.report.note(path, "Not kept.", why, "Write placement: {within: ...}.", at=at)
        return
    draft.put(place, "placement", "within", at=at)
    if not _TOPOLOGIES[name]:
        draft.put(False, "placement", "required", at=at)


def _label(name: str, value: str, at: At, path: str, draft: Draft) -> None:
    labels: Mapping[str, str] = draft.get("labels") or {}
    if not _LABEL.fullmatch(name) or len(value) > _LONGEST_VALUE or not value.isprintable():
        why = f"A label has a name of up to 63 characters and a value of up to {_LONGEST_VALUE}."
        draft.report.note(path, "Not kept.", why, at=at)
    elif name in labels:
        if labels[name] != value:
            draft.report.note(path, "Not kept.", f"The job has this label with {quote(labels[name])} already.", at=at)
    elif len(labels) >= _MOST_LABELS:
        draft.report.note(path, "Not kept.", f"A job has at most {_MOST_LABELS} labels.", at=at)
    else:
        draft.put(value, "labels", name, at=at)
