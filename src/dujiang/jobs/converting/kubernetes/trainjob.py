"""A TrainJob of Kubeflow Trainer to a job, from its own words: the runtime it refers to is in the cluster."""

from __future__ import annotations

from typing import Final

from dujiang.jobs.converting.commands import Run, joined, run_of
from dujiang.jobs.converting.draft import Converted, Draft
from dujiang.jobs.converting.kubernetes.environment import ConfigMaps, Environment
from dujiang.jobs.converting.kubernetes.kubeflow import processes_of, put_launch, torch
from dujiang.jobs.converting.kubernetes.metadata import Words, take_metadata
from dujiang.jobs.converting.kubernetes.placement import take_placement
from dujiang.jobs.converting.kubernetes.pods import words_of
from dujiang.jobs.converting.kubernetes.resources import take_resources
from dujiang.jobs.converting.kubernetes.work import end, required
from dujiang.jobs.converting.launchers import launch_of
from dujiang.jobs.converting.parts import Part, Reasons
from dujiang.jobs.converting.report import Report
from dujiang.kit.spec.problems import quote

_SPEC: Final[Reasons] = {
    "initializer": (
        "What it fetches is not there.",
        "Fetch it in setup, or name data that is there already under inputs.",
    ),
    "managedBy": ("The platform runs it.", ""),
    "podTemplateOverrides": ("The Pods of the runtime are in the cluster alone.", "Write it in our words."),
    "runtimePatches": ("The Pods of the runtime are in the cluster alone.", "Write it in our words."),
    "labels": ("They are for what the runtime makes.", "Write labels."),
    "annotations": ("They are for what the runtime makes.", "Write labels."),
}
_OVERRIDE: Final[Reasons] = {
    "serviceAccountName": ("A job here does not speak to a cluster's API.", ""),
    "volumes": ("Nothing is mounted into jobs.", "Use the path under which the nodes see this storage."),
    "initContainers": ("The Pods of the runtime are in the cluster alone.", "Write setup."),
    "containers": ("The Pods of the runtime are in the cluster alone.", "Write env and resources."),
    "schedulingGates": ("A job is queued when it is submitted.", "Write after, or submit it later."),
}


def convert_train_job(whole: Part, source: str, report: Report, maps: ConfigMaps) -> Converted:
    """Return the job of a TrainJob.

    Raises:
        Refused: it cannot be one; the problems are noted.
    """
    draft, words = Draft(source, report, whole.place), Words()
    take_metadata(whole, draft, words)
    spec = required(whole, "spec", "what the job trains")
    runtime = required(spec, "runtimeRef", "the runtime it uses")
    name = runtime.text("name") or ""
    for field in ("apiGroup", "kind"):
        runtime.take(field)
    runtime.close()
    trainer = required(spec, "trainer", "what runs, which else is in the runtime alone")
    nodes = trainer.whole("numNodes", 1, 10_000)
    if nodes is not None:
        draft.put(nodes, "nodes", at=trainer.at("numNodes"))
    image = trainer.text("image")
    if image:
        draft.put(image, "image", at=trainer.at("image"))
    else:
        what = f"The image of the runtime {quote(name)} is not known."
        report.note(spec.under("runtimeRef"), what, "It is in the cluster.", "Write image.", at=spec.at("runtimeRef"))
    run = _command(trainer, draft, maps)
    take_resources(trainer, "resourcesPerNode", draft, words.annotations)
    _launch(name, run, trainer, draft, spec)
    trainer.close()
    for override in spec.parts("podSpecOverrides", "an override"):
        override.take("targetJobs")
        take_placement(override, draft, words.labels)
        override.close(_OVERRIDE)
    if spec.truth("suspend") and not draft.get("queue"):
        spec.note("suspend", "The job is queued as soon as it is submitted.", "There is no job that only waits for "
                  "a word.", "Submit it when it is to run.")  # fmt: skip
    spec.close(_SPEC)
    end(whole)
    return draft.finish()


def _command(trainer: Part, draft: Draft, maps: ConfigMaps) -> Run:
    environment = Environment(draft, maps, "$RANK", {})
    environment.read(trainer)
    words = words_of(trainer, environment)
    if "command" not in trainer:
        message = "No command is given: what runs is in the runtime alone, which is in the cluster."
        instead = "Write command: [...] as the runtime has it."
        raise trainer.report.refuse(trainer.under("command"), message, instead, at=trainer.place)
    draft.put("", "run", at=trainer.at("command"))
    return run_of(words).with_exports(environment.exports)


def _launch(runtime: str, run: Run, trainer: Part, draft: Draft, spec: Part) -> None:
    """What starts the program is the runtime's choice, of which its name tells."""
    per_node = processes_of(trainer, "numProcPerNode", draft)
    launch = launch_of(run.words)
    at, path = spec.at("runtimeRef"), spec.under("runtimeRef")
    if any(word in runtime for word in ("mpi", "deepspeed", "mlx")) and launch is not None:
        counts = {"processes": launch.processes or per_node or 1}
        args = {"args": list(launch.args)} if launch.args else {}
        put_launch(draft, {"launcher": launch.launcher, **counts, **args}, at)
        draft.put(Run(joined(launch.program), run.exports).text(), "run")
        return
    if "jax" in runtime:
        put_launch(draft, {"launcher": "jax"}, at)
        draft.put(run.text(plain=True), "run")
        return
    if "torch" in runtime or (launch is not None and launch.launcher == "torchrun"):
        torch(run, per_node, draft, at, path)
    else:
        draft.put(run.text(), "run")
    what = f"The runtime {quote(runtime)} is taken for what its name says."
    draft.report.note(
        path, what, "What is in it is in the cluster.", "See that distributed is right.", at=at, kept=True
    )
