"""A Pod, or the template of one, to a job: what runs, with what, where."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dujiang.jobs.converting.commands import Run, TooLong, Word, expand_all, run_of
from dujiang.jobs.converting.draft import Draft
from dujiang.jobs.converting.kubernetes import words as pod_words
from dujiang.jobs.converting.kubernetes.environment import ConfigMaps, Environment
from dujiang.jobs.converting.kubernetes.placement import take_placement
from dujiang.jobs.converting.kubernetes.resources import take_resources
from dujiang.jobs.converting.parts import Part
from dujiang.jobs.converting.report import At
from dujiang.kit.spec.problems import quote

_GRACE_S: Final = 3600
LONGEST_S: Final = 31_622_400
"""The longest time limit of a job."""


@dataclass(frozen=True, slots=True)
class Pod:
    """What a Pod says beside what is in the draft already."""

    run: Run | None
    """None: its image alone knows."""
    restart: str
    """`Always`, `OnFailure`, `Never`, or empty."""
    place: At
    path: str
    has_subdomain: bool = False


@dataclass(frozen=True, slots=True)
class Around:
    """What is known about a Pod from what stands around it."""

    maps: ConfigMaps = field(default_factory=dict)
    index: str = ""
    """What its index is here, as a shell writes it."""
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, tuple[str, At]] = field(default_factory=dict)
    main: Sequence[str] = ()
    """Names of the container that does the work, the first that is there."""
    needs_command: bool = True
    given: Sequence[str] = ()
    """Variables that are there where the job runs."""


def take_pod(spec: Part, draft: Draft, around: Around) -> Pod:
    """Put what a Pod's specification says into the draft.

    Raises:
        Refused: it has no container, or no command is known; the problems are noted.
    """
    containers = spec.parts("containers", "a container")
    if not containers:
        raise spec.report.refuse(spec.under("containers"), "A Pod has at least one container.", at=spec.place)
    main = _main(containers, around, spec)
    environment = Environment(draft, around.maps, around.index, around.labels, around.given)
    environment.read(main)
    take_resources(main, "resources", draft, around.annotations)
    take_placement(spec, draft, around.labels)
    image = main.text("image")
    if image:
        draft.put(image, "image", at=main.at("image"))
    run = _command(main, environment, draft, required=around.needs_command)
    _setup(spec, draft, image, around)
    mounts = _mounts(main)
    _volumes(spec, mounts)
    _ports(main, draft)
    workdir = main.text("workingDir")
    if workdir:
        draft.put(workdir, "workdir", at=main.at("workingDir"))
    main.close(pod_words.CONTAINER, known=("name",), plain=pod_words.CONTAINER_PLAIN)
    _limits(spec, draft)
    _priority(spec, draft)
    restart, place = spec.text("restartPolicy") or "", spec.at("restartPolicy")
    subdomain = spec.text("subdomain")
    spec.close(pod_words.POD, plain=pod_words.POD_PLAIN)
    return Pod(run, restart, place, spec.under("restartPolicy"), subdomain is not None)


def _main(containers: Sequence[Part], around: Around, spec: Part) -> Part:
    """Return the container that does the work; the others are told to be left out."""
    named = {container.text("name") or "": container for container in containers}
    wanted = [*around.main]
    chosen = around.annotations.get("kubectl.kubernetes.io/default-container")
    if chosen is not None:
        wanted.append(chosen[0])
    main = next((named[name] for name in wanted if name in named), containers[0])
    for container in containers:
        if container is not main:
            what = f"The container {quote(container.text('name') or '')} is left out."
            instead = "Run what it does in the job itself, or as a job of its own."
            spec.report.note(container.path, what, "A job has one container on each node.", instead, at=container.place)
    return main


def words_of(container: Part, environment: Environment) -> list[Word]:
    """Return command and arguments with their references resolved.

    Raises:
        Refused: they are too long; the problem is noted.
    """
    try:
        return expand_all([*container.words("command"), *container.words("args")], environment.values)
    except TooLong as error:
        message = "With what its references stand for, the command is longer than any may be."
        raise container.report.refuse(container.under("command"), message, at=container.place) from error


def _command(container: Part, environment: Environment, draft: Draft, *, required: bool) -> Run | None:
    words = words_of(container, environment)
    if "command" not in container or not words:
        if not required:
            return None
        message = "No command is given: what runs is in the image alone, which is not looked into."
        instead = "Write command: [...] with the ENTRYPOINT (and CMD) of the image, as `docker inspect` shows it."
        raise container.report.refuse(container.under("command"), message, instead, at=container.place)

    def tell() -> None:
        what = "A reference inside shell text is left to the shell."
        why = "Its value is known only where the job runs; there it is one word or several, and never shell text."
        container.report.note(container.under("command"), what, why, at=container.at("command"), kept=True)

    run = run_of(words, tell)
    draft.put("", "run", at=container.at("command"))
    return run.with_exports(environment.exports)


def _setup(spec: Part, draft: Draft, image: str | None, around: Around) -> None:
    lines: list[str] = []
    place: At | None = None
    for container in spec.parts("initContainers", "a container"):
        name, path = container.text("name") or "", container.path
        other = container.text("image")
        why = ""
        if container.text("restartPolicy") == "Always":
            why = "It runs beside the work, and a job has one container on each node."
        elif image and other and other != image:
            why = "It runs another image, and setup runs in the job's own."
        elif "command" not in container:
            why = "What it runs is in the image alone, which is not looked into."
        if why:
            instead = "Write what it does as setup, or as a job that this one comes after."
            what = f"The init container {quote(name)} is left out."
            spec.report.note(path, what, why, instead, at=container.place)
            continue
        inner = Draft(draft.source, spec.report, container.place)
        environment = Environment(inner, around.maps, around.index, around.labels, around.given)
        environment.read(container)
        words = words_of(container, environment)
        own = [f"export {name}={shlex.quote(value)}" for name, value in (inner.get("env") or {}).items()
               if draft.get("env", name) != value]  # fmt: skip
        body = run_of(words).with_exports([*own, *environment.exports]).text(plain=True)
        secrets = inner.get("secrets") or {}
        for secret, value in secrets.items():
            draft.put(value, "secrets", secret, at=container.place)
        lines.append(f"(\n{body}\n)" if own or environment.exports else body)
        place = place or container.place
        spec.report.note(path, f"The init container {quote(name)} is setup.",
                         "It runs once for each attempt, on the first node, with the job's own resources.",
                         at=container.place, kept=True)  # fmt: skip
    if lines and place is not None:
        draft.put("\n".join(lines), "setup", at=place)


def _mounts(container: Part) -> dict[str, list[str]]:
    """Return where volumes are mounted, by name of the volume."""
    found: dict[str, list[str]] = {}
    for mount in container.parts("volumeMounts", "a mount"):
        found.setdefault(mount.text("name") or "", []).append(mount.text("mountPath") or "")
    return found


def _volumes(spec: Part, mounts: Mapping[str, list[str]]) -> None:
    for volume in spec.parts("volumes", "a volume"):
        name = volume.text("name") or ""
        where = " and ".join(quote(path) for path in mounts.get(name, [])) or "nowhere"
        what = f"The volume {quote(name)}, mounted at {where}, is not there."
        spec.report.note(volume.path, what, *_why_no_volume(volume), at=volume.place)


def _why_no_volume(volume: Part) -> tuple[str, str]:
    kind = next((name for name in volume.names if name != "name"), "")
    match kind:
        case "hostPath":
            inner = volume.part(kind, "a path")
            path = inner.text("path") if inner else ""
            return (
                "Nothing is mounted into jobs; on the nodes the path is as it is.",
                f"Use {quote(path or '')} itself.",
            )
        case "persistentVolumeClaim" | "nfs" | "csi" | "cephfs" | "ephemeral":
            return "Nothing is mounted into jobs.", "Use the path under which the nodes see this storage."
        case "emptyDir" | "":
            instead = "Write into the working folder or $TMPDIR, and ask for resources: {disk: ...} or memory."
            return "Nothing is mounted into jobs.", instead
        case "configMap" | "secret" | "projected" | "downwardAPI":
            return "Nothing is mounted into jobs.", "Put the text into env or secrets, or into a file of the job."
    return "Nothing is mounted into jobs.", ""


def _ports(container: Part, draft: Draft) -> None:
    ports = container.parts("ports", "a port")
    if not ports:
        return
    draft.put(min(len(ports), 16), "ports", at=container.at("ports"))
    numbers = ", ".join(str(port.text("containerPort") or "") for port in ports[:16])
    what = f"The job gets {len(ports[:16])} of its own in place of {numbers}."
    container.note("ports", what, "The platform chooses the numbers.", "Listen on $PORT, $PORT1 ...", kept=True)


def _limits(spec: Part, draft: Draft) -> None:
    grace = spec.whole("terminationGracePeriodSeconds")
    if grace is not None:
        if grace > _GRACE_S:
            spec.note("terminationGracePeriodSeconds", "The job gets an hour.", "That is the longest.", kept=True)
        draft.put(min(grace, _GRACE_S), "grace", at=spec.at("terminationGracePeriodSeconds"))
    take_limit(spec, draft)


def take_limit(part: Part, draft: Draft) -> None:
    """Take `activeDeadlineSeconds`; of several the shortest counts."""
    limit = part.whole("activeDeadlineSeconds")
    if limit is None:
        return
    if limit > LONGEST_S:
        part.note("activeDeadlineSeconds", "The job has no time limit.", "366 days are the longest.")
        return
    before = draft.get("time_limit")
    if before is None or limit < before:
        draft.put(max(1, limit), "time_limit", at=part.at("activeDeadlineSeconds"))


_CLASSES: Final = (
    ("core", ("high", "critical", "urgent", "core", "prod", "important")),
    ("low", ("low", "batch", "best", "preempt", "spot", "scaveng", "backfill", "idle", "free", "opportun")),
)


def class_of(name: str) -> str:
    """Return the class that the name of a priority sounds like."""
    low = name.lower()
    return next((ours for ours, words in _CLASSES if any(word in low for word in words)), "normal")


def _priority(spec: Part, draft: Draft) -> None:
    name = spec.text("priorityClassName")
    if name:
        draft.put(class_of(name), "class", at=spec.at("priorityClassName"))
        what = f"{quote(name)} is class {class_of(name)}, by its name."
        why = "Priorities of a cluster are not known here."
        spec.note("priorityClassName", what, why, "Write class: core, normal or low.", kept=True)
