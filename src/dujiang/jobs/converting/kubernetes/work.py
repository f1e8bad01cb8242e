"""A Job of batch/v1, and a bare Pod, to a job here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dujiang.jobs.converting.draft import Converted, Draft
from dujiang.jobs.converting.kubernetes import words as pod_words
from dujiang.jobs.converting.kubernetes.environment import ConfigMaps
from dujiang.jobs.converting.kubernetes.metadata import Words, take_metadata
from dujiang.jobs.converting.kubernetes.pods import Around, Pod, take_limit, take_pod
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import At, Report
from dujiang.jobs.spec import MOST_TASKS

DEFAULT_BACKOFF: Final = 6
"""Of a Job that does not say how often it is tried again."""
ANY_FAILURE: Final = ["infrastructure", "preemption", "unknown", "out_of_memory", "user"]
"""What Kubernetes tries again: everything but the end of its time."""
_MOST_RETRIES: Final = 1000


def convert_pod(whole: Part, source: str, report: Report, maps: ConfigMaps) -> Converted:
    """Return the job of a bare Pod.

    Raises:
        Refused: it cannot be one; the problems are noted.
    """
    draft, words = Draft(source, report, whole.place), Words()
    take_metadata(whole, draft, words)
    spec = required(whole, "spec", "what the Pod runs")
    pod = take_pod(spec, draft, Around(maps, labels=words.labels, annotations=words.annotations))
    _restarts(pod, draft)
    end(whole)
    assert pod.run is not None
    draft.put(pod.run.text(), "run")
    return draft.finish()


def convert_job(whole: Part, source: str, report: Report, maps: ConfigMaps) -> Converted:
    """Return the job of a Job.

    Raises:
        Refused: it cannot be one; the problems are noted.
    """
    draft, words = Draft(source, report, whole.place), Words()
    take_metadata(whole, draft, words)
    spec = required(whole, "spec", "what the Job runs")
    template = required(spec, "template", "a Pod")
    take_metadata(template, draft, words, names=False)
    inner = required(template, "spec", "what the Pod runs")
    variable, gang = _many(spec, draft, has_subdomain="subdomain" in inner)
    given = ["JOB_COMPLETION_INDEX"] if variable else []
    around = Around(maps, variable, words.labels, words.annotations, given=given)
    pod = take_pod(inner, draft, around)
    template.close()
    backoff(spec, draft)
    take_limit(spec, draft)
    if spec.truth("suspend") and not draft.get("queue"):
        spec.note("suspend", "The job is queued as soon as it is submitted.", "There is no job that only waits for "
                  "a word.", "Submit it when it is to run.")  # fmt: skip
    spec.close(pod_words.JOB, plain=pod_words.JOB_PLAIN)
    end(whole)
    assert pod.run is not None
    exports = [f'export JOB_COMPLETION_INDEX="{variable}"'] if variable else []
    if gang:
        report.note(spec.under("completions"), "Its Pods are the nodes of one job, which start together.",
                    "They share a subdomain, so they talk to one another; MASTER_ADDR, RANK and WORLD_SIZE tell how.",
                    at=spec.at("completions"), kept=True)  # fmt: skip
    draft.put(pod.run.with_exports(exports).text(), "run")
    return draft.finish()


def required(part: Part, name: str, what: str) -> Part:
    """Return a field that has to be there.

    Raises:
        Refused: it is not; the problem is noted.
    """
    found = part.part(name, what)
    if found is None:
        raise part.report.refuse(part.under(name), f'The field "{name}" is missing: {what}.', at=part.place)
    return found


def end(whole: Part) -> None:
    """Note what is left of a whole piece of work."""
    whole.take("apiVersion"), whole.take("kind")
    if "status" in whole:
        whole.note("status", "Not kept.", "The cluster wrote this, nobody else.")
    whole.close()


def backoff(part: Part, draft: Draft, *, default: int | None = DEFAULT_BACKOFF) -> None:
    """Take `backoffLimit`: how often it is tried again, whatever it failed of."""
    limit = part.whole("backoffLimit")
    wanted = default if limit is None else limit
    if wanted is None:
        return
    if wanted > _MOST_RETRIES:
        part.note("backoffLimit", f"The job is tried again {_MOST_RETRIES} times.", "That is the most.", kept=True)
    retry: dict[str, object] = {"limit": min(wanted, _MOST_RETRIES)}
    if wanted:
        retry["on"] = ANY_FAILURE
    draft.put(retry, "retry", at=part.at("backoffLimit"))


def _many(spec: Part, draft: Draft, *, has_subdomain: bool) -> tuple[str, bool]:
    """Take how many Pods there are: an array, or the nodes of one job.

    Returns:
        What the index of a Pod is here, as a shell writes it, empty when it has none; whether they are nodes.
    """
    parallelism, completions = spec.whole("parallelism"), spec.whole("completions")
    indexed = (spec.text("completionMode") or "NonIndexed") == "Indexed"
    at_once = 1 if parallelism is None else parallelism
    if at_once == 0:
        why = "There is no job that only waits for a word."
        spec.note("parallelism", "The job runs all the same.", why, "Submit it when it is to run.")
        at_once = 1
    if indexed and has_subdomain and completions is not None and completions == at_once:
        draft.put(completions, "nodes", at=spec.at("completions"))
        return "$RANK", True
    if completions is None and at_once > 1:
        why = "It has no number of completions: its Pods share out work among themselves and end with it."
        draft.put(_array(at_once, None), "array", at=spec.at("parallelism"))
        spec.note("parallelism", f"The job is an array of {at_once} tasks.", why, kept=True)
        return "", False
    if completions is None or (completions == 1 and not indexed):
        return "", False
    if completions == 0:
        message = "A Job with no completions has nothing to do."
        raise spec.report.refuse(spec.under("completions"), message, "Leave it out.", at=spec.at("completions"))
    if completions > MOST_TASKS:
        message = f"An array has at most {MOST_TASKS} tasks, not {completions}."
        raise spec.report.refuse(spec.under("completions"), message, "Give each more to do.", at=spec.at("completions"))
    draft.put(_array(completions, at_once), "array", at=spec.at("completions"))
    if indexed and completions == at_once > 1:
        what = f"The job is an array of {completions} tasks, each by itself."
        instead = f"If they have to start together and talk to one another, write nodes: {completions} in its place."
        spec.note("completions", what, "Nothing says that its Pods belong together.", instead, kept=True)
    return "$DUJIANG_ARRAY_INDEX" if indexed else "", False


def _array(size: int, at_once: int | None) -> Mapping[str, object]:
    limit = {"at_once": at_once} if at_once is not None and at_once < size else {}
    return {"size": size, **limit}


def _restarts(pod: Pod, draft: Draft) -> None:
    """What a bare Pod does when it ends; one that is left alone is started again for ever."""
    at: At = pod.place
    match pod.restart:
        case "Never":
            draft.put({"limit": 0}, "retry", at=at)
        case "OnFailure":
            draft.put({"limit": _MOST_RETRIES, "on": ANY_FAILURE}, "retry", at=at)
            why = "There is no trying again for ever."
            draft.report.note(pod.path, f"The job is tried again {_MOST_RETRIES} times.", why, at=at, kept=True)
        case _ if draft.get("ports"):
            draft.put("service", "kind", at=at)
            draft.put({"limit": _MOST_RETRIES, "on": ANY_FAILURE}, "retry", at=at)
            why = "It is always started again and has ports."
            draft.report.note(
                pod.path, "The job is a service, which runs until it is cancelled.", why, at=at, kept=True
            )
        case _:
            why = "A Pod that says nothing else is started again whenever it ends; a job ends."
            instead = "Write kind: service for what runs until it is cancelled."
            draft.report.note(pod.path, "The job runs once.", why, instead, at=at)
