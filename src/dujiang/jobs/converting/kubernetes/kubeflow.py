"""Training jobs of Kubeflow: replicas of a Pod become the nodes of one job, roles its launcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dujiang.jobs.converting.commands import Run, fixed, joined
from dujiang.jobs.converting.draft import Converted, Draft
from dujiang.jobs.converting.kubernetes.environment import ConfigMaps
from dujiang.jobs.converting.kubernetes.metadata import Words, take_metadata
from dujiang.jobs.converting.kubernetes.pods import Around, Pod, class_of, take_limit, take_pod
from dujiang.jobs.converting.kubernetes.work import ANY_FAILURE, backoff, end, required
from dujiang.jobs.converting.launchers import Launch, launch_of
from dujiang.jobs.converting.parts import Part, Reasons
from dujiang.jobs.converting.report import At, Report
from dujiang.kit.spec.problems import quote

RUN_POLICY: Final[Reasons] = {
    "cleanPodPolicy": ("What ran is cleaned up by the platform.", ""),
    "ttlSecondsAfterFinished": ("Jobs that have ended stay on record.", ""),
    "managedBy": ("The platform runs it.", ""),
}
_PET: Final = (
    'export PET_NNODES="$DUJIANG_NODES" PET_NODE_RANK="$RANK" PET_MASTER_ADDR="$MASTER_ADDR" '
    'PET_MASTER_PORT="$MASTER_PORT" PET_RDZV_ENDPOINT="$MASTER_ADDR:$MASTER_PORT"'
)
"""What torchrun reads where nothing is on its command line."""
_GIVEN: Final = ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "RANK")
_LAUNCHERS_IN_TEXT: Final = ("torchrun", "torch.distributed", "accelerate", "deepspeed", "mpirun", "horovodrun")


@dataclass(frozen=True, slots=True)
class Role:
    """One kind of replica."""

    name: str
    replicas: int
    draft: Draft
    pod: Pod
    part: Part


@dataclass(frozen=True, slots=True)
class Trainer:
    """How a kind of training job is written."""

    field: str
    container: str
    roles: Sequence[str]
    impossible: Mapping[str, str]
    """Roles that no job here can have, and why."""


_PS = "Parameter servers run another part of the program than workers do, and a job here runs one on all nodes."
_EVALUATOR = "An evaluator runs beside the training, and a job here runs one program on all nodes."
TRAINERS: Final[Mapping[str, Trainer]] = {
    "PyTorchJob": Trainer("pytorchReplicaSpecs", "pytorch", ("Master", "Worker"), {}),
    "TFJob": Trainer(
        "tfReplicaSpecs", "tensorflow", ("Chief", "Master", "Worker"),
        {"PS": _PS, "Ps": _PS, "Evaluator": _EVALUATOR, "Eval": _EVALUATOR},
    ),
    "JAXJob": Trainer("jaxReplicaSpecs", "jax", ("Worker",), {}),
    "MPIJob": Trainer("mpiReplicaSpecs", "", ("Launcher", "Worker"), {}),
}  # fmt: skip


def convert_training(whole: Part, kind: str, source: str, report: Report, maps: ConfigMaps) -> Converted:
    """Return the job of a PyTorchJob, TFJob, JAXJob or MPIJob.

    Raises:
        Refused: it cannot be one; the problems are noted.
    """
    trainer = TRAINERS[kind]
    draft, words = Draft(source, report, whole.place), Words()
    take_metadata(whole, draft, words)
    spec = required(whole, "spec", "what the job runs")
    replicas = required(spec, trainer.field, "replicas by role")
    roles = _roles(replicas, trainer, kind, draft, maps, words)
    if kind == "MPIJob":
        _mpi(spec, roles, draft)
    else:
        _alike(roles, draft, replicas)
        _elastic(spec, draft, roles)
        _launch(kind, spec, roles, draft)
    _run_policy(spec, draft)
    _success(spec)
    spec.close()
    end(whole)
    return draft.finish()


def _roles(
    replicas: Part, trainer: Trainer, kind: str, draft: Draft, maps: ConfigMaps, words: Words
) -> list[Role]:  # fmt: skip
    found: list[Role] = []
    for name in sorted(replicas.names, key=lambda name: _rank(name, trainer.roles)):
        if name in trainer.impossible:
            message = f"The role {name} has no counterpart. {trainer.impossible[name]}"
            instead = "Use a strategy without it (such as MultiWorkerMirroredStrategy), or write the job anew."
            raise replicas.report.refuse(replicas.under(name), message, instead, at=replicas.at(name))
        if name not in trainer.roles:
            message = f"{quote(name)} is no role of a {kind}."
            instead = f"The roles are {', '.join(trainer.roles)}."
            raise replicas.report.refuse(replicas.under(name), message, instead, at=replicas.at(name))
        role = required(replicas, name, "replicas")
        count = role.whole("replicas", 0, 10_000)
        if count == 0:
            replicas.note(name, "Left out.", "It has no replicas.", kept=True)
            continue
        found.append(_role(name, 1 if count is None else count, role, trainer, draft, maps, words))
    if not found:
        message = "There are no replicas."
        raise replicas.report.refuse(
            replicas.path, message, f"The roles are {', '.join(trainer.roles)}.", at=replicas.place
        )
    replicas.close()
    return found


def _role(
    name: str, count: int, role: Part, trainer: Trainer, draft: Draft, maps: ConfigMaps, words: Words
) -> Role:  # fmt: skip
    inner = Draft(draft.source, draft.report, role.place)
    if draft.get("name"):
        inner.put(draft.get("name"), "name")
    template = required(role, "template", "a Pod")
    own = Words()
    own.labels.update(words.labels)
    own.annotations.update(words.annotations)
    take_metadata(template, inner, own, names=False)
    main = [trainer.container] if trainer.container else []
    needs = not (name == "Worker" and trainer.field == "mpiReplicaSpecs")
    around = Around(maps, "$RANK", own.labels, own.annotations, main, needs, _GIVEN)
    pod = take_pod(required(template, "spec", "what the Pod runs"), inner, around)
    template.close()
    restart = role.text("restartPolicy")
    role.close()
    if restart in ("OnFailure", "Always", "ExitCode") and draft.get("retry") is None:
        draft.put({"limit": 10, "on": ANY_FAILURE}, "retry", at=role.at("restartPolicy"))
        what = "The job as a whole is started again, up to ten times."
        role.note("restartPolicy", what, "One replica alone is not.", "Write retry: {limit: ...}.", kept=True)
    elif restart == "Never" and draft.get("retry") is None:
        draft.put({"limit": 0}, "retry", at=role.at("restartPolicy"))
    return Role(name, count, inner, pod, role)


def _rank(name: str, roles: Sequence[str]) -> int:
    return roles.index(name) if name in roles else len(roles)


_SHARED: Final = ("image", "workdir", "env", "secrets", "setup", "placement", "grace", "ports", "time_limit", "class",
                  "queue", "labels")  # fmt: skip


def _alike(roles: Sequence[Role], draft: Draft, replicas: Part) -> None:
    """Put what the replicas have in common into the draft; they are the nodes of one job."""
    first = roles[0]
    for other in roles[1:]:
        if other.pod.run != first.pod.run:
            message = f"{first.name} and {other.name} run different commands, and a job here runs one on all nodes."
            instead = "Have one program tell ranks apart by RANK."
            raise replicas.report.refuse(other.part.path, message, instead, at=other.part.place)
    _adopt(first, draft)
    for other in roles[1:]:
        _differences(first, other, draft)
    nodes = sum(role.replicas for role in roles)
    if nodes > 1:
        draft.put(nodes, "nodes", at=roles[-1].part.at("replicas"))


def _adopt(role: Role, draft: Draft) -> None:
    for name in (*_SHARED, "resources"):
        value = role.draft.get(name)
        if value is None:
            continue
        before = draft.get(name)
        value = {**value, **before} if isinstance(before, dict) and isinstance(value, dict) else value
        draft.put(value, name, at=role.draft.place(name))
    draft.put("", "run", at=role.draft.place("run"))


def _differences(first: Role, other: Role, draft: Draft) -> None:
    for name in _SHARED:
        if first.draft.get(name) != other.draft.get(name) and other.draft.get(name) is not None:
            what = f"{name} of {other.name} is not kept; that of {first.name} counts."
            draft.report.note(other.part.path, what, "All nodes of a job are alike.", at=other.part.place)
    mine, others = first.draft.get("resources") or {}, other.draft.get("resources") or {}
    if mine != others:
        bigger = others if _weight(others) > _weight(mine) else mine
        draft.put(bigger, "resources", at=other.part.place)
        name = other.name if bigger is others else first.name
        what = f"Each node gets the resources of {name}."
        instead = "Where that is too much, ask for less under resources."
        draft.report.note(
            other.part.path, what, "All nodes of a job are alike.", instead, at=other.part.place, kept=True
        )


def _weight(resources: Mapping[str, Any]) -> tuple[float, float, str]:
    gpu = resources.get("gpu") or {}
    devices = gpu.get("count", gpu.get("fraction", 0)) or 0
    return float(devices), float(resources.get("cpu", 1)), str(resources.get("memory", ""))


def _elastic(spec: Part, draft: Draft, roles: Sequence[Role]) -> None:
    policy = spec.part("elasticPolicy", "an elastic policy")
    if policy is None:
        return
    least, most = policy.whole("minReplicas", 1, 10_000), policy.whole("maxReplicas", 1, 10_000)
    others = sum(role.replicas for role in roles if role.name != "Worker")
    if least is not None and most is not None and least < most:
        draft.put({"min": least + others, "max": most + others}, "nodes", at=policy.at("minReplicas"))
    elif most is not None:
        draft.put(most + others, "nodes", at=policy.at("maxReplicas"))
    restarts = policy.whole("maxRestarts")
    if restarts is not None:
        draft.put({"limit": min(restarts, 1000), "on": ANY_FAILURE}, "retry", at=policy.at("maxRestarts"))
        what = "The job as a whole is started again that often."
        policy.note("maxRestarts", what, "", kept=True)
    filled = ("The platform has its own rendezvous and fills it in.", "")
    policy.close(
        {
            **dict.fromkeys(("rdzvBackend", "rdzvPort", "rdzvHost", "rdzvId", "rdzvConf", "standalone"), filled),
            "metrics": ("An elastic job takes what room there is; it is not scaled by what it uses.", ""),
            "nProcPerNode": ("It is said by nprocPerNode.", ""),
        }
    )


def _launch(kind: str, spec: Part, roles: Sequence[Role], draft: Draft) -> None:
    run = roles[0].pod.run
    assert run is not None
    if kind == "PyTorchJob":
        per_node = processes_of(spec, "nprocPerNode", draft)
        torch(run, per_node, draft, spec.place, spec.path)
        return
    launcher = "tensorflow" if kind == "TFJob" else "jax"
    if kind == "TFJob":
        spec.lose("enableDynamicWorker", "Write nodes: {min: ..., max: ...}.")
        for role in roles:
            if role.name != "Worker":
                what = f"{role.name} is the first worker."
                why = "In TF_CONFIG all nodes are workers, of which the first is the chief."
                draft.report.note(role.part.path, what, why, at=role.part.place, kept=True)
    put_launch(draft, {"launcher": launcher}, spec.place)
    draft.put(run.text(plain=True), "run")


def processes_of(part: Part, name: str, draft: Draft) -> int | None:
    """Take how many processes a node has; None is one for each of its devices."""
    text = part.text(name)
    if text is None or text in ("auto", "gpu"):
        return None
    if text.isdigit() and 0 < int(text[:9]) <= 1024:
        return int(text)
    part.note(name, "Each device has a process.", f"{quote(text)} is not a number.", "Write distributed: "
              "{launcher: torchrun, processes: ...}.")  # fmt: skip
    return None


def torch(run: Run, per_node: int | None, draft: Draft, at: At, path: str) -> None:
    """Put a program that torchrun starts, or would, into the draft."""
    launch = launch_of(run.words)
    if launch is not None and launch.launcher == "torchrun":
        _put_launched(launch, run, launch.processes or per_node, draft, at, path)
    elif any(word in run.body for word in _LAUNCHERS_IN_TEXT):
        counts = [f"export PET_NPROC_PER_NODE={per_node}"] if per_node else []
        draft.put(run.with_exports([_PET, *counts]).text(), "run")
        why = "It starts a launcher by itself."
        instead = "Write distributed: torchrun and the program alone as run."
        draft.report.note(path, "run goes as it is on each node, with what torchrun reads (PET_*) in its environment.",
                          why, instead, at=at, kept=True)  # fmt: skip
    elif not draft.get("resources", "gpu", "fraction"):
        put_launch(draft, {"launcher": "torchrun", "processes": per_node or 1}, at)
        draft.put(run.text(plain=True), "run")
    else:
        draft.put(run.text(), "run")


def _put_launched(launch: Launch, run: Run, processes: int | None, draft: Draft, at: At, path: str) -> None:
    words: dict[str, Any] = {"launcher": launch.launcher}
    if processes is not None:
        words["processes"] = processes
    if launch.args:
        words["args"] = list(launch.args)
    if launch.filled:
        what = f"The platform fills in {', '.join('--' + name for name in launch.filled)}."
        draft.report.note(path, what, "It knows the nodes when it has chosen them.", at=at, kept=True)
    if launch.restarts and draft.get("retry") is None:
        draft.put({"limit": min(launch.restarts, 1000), "on": ANY_FAILURE}, "retry", at=at)
    put_launch(draft, words, at)
    body = Run(joined(launch.program), run.exports)
    draft.put(body.text(), "run")


def put_launch(draft: Draft, words: Mapping[str, Any], at: At) -> None:
    """Put a launcher into the draft, in its short form where that says it all."""
    draft.put(words["launcher"] if len(words) == 1 else dict(words), "distributed", at=at)


def _mpi(spec: Part, roles: Sequence[Role], draft: Draft) -> None:
    """The launcher's command, on the workers' nodes."""
    by_name = {role.name: role for role in roles}
    launcher, worker = by_name.get("Launcher"), by_name.get("Worker")
    if launcher is None or launcher.pod.run is None:
        message = "An MPIJob has a Launcher with a command."
        raise spec.report.refuse(spec.under("mpiReplicaSpecs"), message, at=spec.at("mpiReplicaSpecs"))
    where = worker or launcher
    _adopt(where, draft)
    for name in ("env", "secrets", "workdir", "image"):
        if launcher.draft.get(name) is not None:
            draft.put(launcher.draft.get(name), name, at=launcher.draft.place(name))
    if worker is not None:
        why = "mpirun runs on the first node of the job itself."
        draft.report.note(launcher.part.path, "The launcher has no node and no resources of its own.", why,
                          at=launcher.part.place, kept=True)  # fmt: skip
        if worker.pod.run is not None and "sshd" not in worker.pod.run.body:
            what = "The workers' own command is not run."
            draft.report.note(worker.part.path, what, "mpirun starts what runs on them.", at=worker.part.place)
    if where.replicas > 1:
        draft.put(where.replicas, "nodes", at=where.part.at("replicas"))
    slots = spec.whole("slotsPerWorker", 1, 1024)
    for name, why in (
        ("sshAuthMountPath", "The platform has its own way to start processes on other nodes."),
        ("launcherCreationPolicy", "All nodes of a job start together."),
        ("runLauncherAsWorker", "mpirun runs on the first node of the job itself."),
        ("mpiImplementation", "The platform starts Open MPI's mpirun."),
        ("mainContainer", "The first container counts."),
        ("cleanPodPolicy", "What ran is cleaned up by the platform."),
    ):
        spec.lose(name, why)
    _mpi_run(launcher, where.replicas, slots, draft)


def _mpi_run(launcher: Role, nodes: int, slots: int | None, draft: Draft) -> None:
    run, path, at = launcher.pod.run, launcher.part.path, launcher.part.place
    assert run is not None
    launch = launch_of(run.words)
    if launch is None or launch.launcher not in ("mpi", "horovod"):
        shown = quote(" ".join(fixed(word) for word in run.words) or run.body, 60)
        message = f"The launcher's command {shown} does not begin with an mpirun or horovodrun that can be read."
        instead = "Write mpirun and its options as the words of command, the program after them."
        raise draft.report.refuse(path, message, instead, at=at)
    processes = launch.processes or slots or 1
    if launch.total is not None and launch.total != processes * nodes:
        if launch.total % nodes == 0:
            processes = launch.total // nodes
        else:
            what = f"The job has {processes * nodes} processes, not {launch.total}."
            why = f"Each of the {nodes} nodes has as many."
            draft.report.note(path, what, why, "Write distributed: {processes: ...}.", at=at)
    _put_launched(launch, run, processes, draft, at, path)


def _run_policy(spec: Part, draft: Draft) -> None:
    policy = spec.part("runPolicy", "a run policy")
    if policy is None:
        return
    backoff(policy, draft, default=None)
    take_limit(policy, draft)
    if policy.truth("suspend") and not draft.get("queue"):
        policy.note("suspend", "The job is queued as soon as it is submitted.", "There is no job that only waits for "
                    "a word.", "Submit it when it is to run.")  # fmt: skip
    scheduling = policy.part("schedulingPolicy", "a scheduling policy")
    if scheduling is not None:
        queue, priority = scheduling.text("queue"), scheduling.text("priorityClass")
        if queue:
            draft.put(queue, "queue", at=scheduling.at("queue"))
        if priority:
            draft.put(class_of(priority), "class", at=scheduling.at("priorityClass"))
            what = f"{quote(priority)} is class {class_of(priority)}, by its name."
            scheduling.note("priorityClass", what, "Priorities of a cluster are not known here.", kept=True)
        least = scheduling.whole("minAvailable")
        nodes = draft.get("nodes")
        if least is not None and isinstance(nodes, int) and least < nodes:
            what = "All nodes start together, not only so many."
            instead = f"Write nodes: {{min: {max(1, least)}, max: {nodes}}} if it can do with fewer."
            scheduling.note("minAvailable", what, "", instead)
        scheduling.close(
            {
                "minResources": ("All nodes of a job start together or not at all.", ""),
                "scheduleTimeoutSeconds": ("A job waits until it is cancelled.", "Write a deadline."),
            }
        )
    policy.close(RUN_POLICY)


def _success(spec: Part) -> None:
    spec.lose("successPolicy", "A job has completed when all of its nodes have.")
