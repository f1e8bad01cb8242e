"""What podman, Docker and containerd are told: pure.

A runtime fetches images and keeps a container of one, in which nothing runs but a shell that waits: its file system,
mounts and devices are the room that an attempt's processes enter (`rooms`). The container has the machine's network,
processes and shared memory, as an attempt without an image has them. Standard library only: the supervisor's process
imports this.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PROGRAMS: Mapping[str, str] = {"podman": "podman", "docker": "docker", "containerd": "ctr"}
"""The command of each runtime, in the order in which they are tried."""
SHELL = "/bin/sh"
_WAITS = 'read x <"$1"'
"""Ends when nobody holds the other end any more: the container is gone with the supervisor, however that dies."""
_MOST_FILES = 4096
_PREFIX = "dujiang"


@dataclass(frozen=True, slots=True)
class Runtime:
    """A container runtime, and how its command is called."""

    name: str
    words: tuple[str, ...]
    """The command with its global options."""
    env: Mapping[str, str] = field(default_factory=dict)
    """What the command needs beside the environment of jobs, such as where its daemon listens."""
    registry: str = ""
    """Of references that name none; containerd has no default of its own."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Runtime:
        """Return the runtime of a launch record."""
        return cls(record["name"], tuple(record["words"]), record["env"], record["registry"])


@dataclass(frozen=True, slots=True)
class Plan:
    """The container of one rank."""

    name: str
    image: str
    hold: str
    """The named pipe whose other end the supervisor holds."""
    mounts: tuple[str, ...] = ()
    """Files and folders that have the same path inside, parents first."""
    devices: tuple[tuple[str, int], ...] = ()
    """Name and index of each NVIDIA device."""
    pid_file: str = ""
    """Where containerd writes the process number."""


def container_name(mark: str, key: str, rank: int) -> str:
    """Return the name of a rank's container: of one attempt of one home, so never of two."""
    return f"{_PREFIX}-{mark}-{key}.{rank}"


def full_reference(image: str, registry: str = "") -> str:
    """Return a reference with registry and tag, as containerd wants it.

    Args:
        image: the reference.
        registry: goes in front of those that name none; empty leaves them, for images that were loaded by hand.
    """
    name, at, digest = image.partition("@")
    first, slash, _ = name.partition("/")
    if registry and not (slash and (first == "localhost" or re.search(r"[.:]", first))):
        name = f"{registry}/{name}"
    if not digest and ":" not in name.rpartition("/")[2]:
        name += ":latest"
    return name + at + digest


def is_here(runtime: Runtime, image: str) -> list[str]:
    """Return the command that prints something exactly when the image need not be fetched."""
    if runtime.name == "containerd":
        return [*runtime.words, "images", "ls", "-q", f"name=={full_reference(image, runtime.registry)}"]
    return [*runtime.words, "image", "inspect", "--format", "{{.Id}}", image]


def fetch(runtime: Runtime, image: str) -> list[str]:
    """Return the command that fetches an image."""
    if runtime.name == "containerd":
        return [*runtime.words, "images", "pull", full_reference(image, runtime.registry)]
    return [*runtime.words, "pull", image]


def make(runtime: Runtime, plan: Plan, cdi: str = "") -> list[str]:
    """Return the command that starts the container and returns.

    Args:
        runtime: which.
        plan: the container.
        cdi: what the machine's CDI specifications say, which is how podman knows devices.
    """
    tail = ["-c", _WAITS, "room", plan.hold]
    if runtime.name == "containerd":
        return [
            *runtime.words, "run", "--detach", "--null-io", "--pid-file", plan.pid_file, "--net-host", "--cwd", "/",
            "--with-ns", "pid:/proc/self/ns/pid", "--with-ns", "ipc:/proc/self/ns/ipc",
            "--label", f"{_PREFIX}={plan.name}", "--mount", bind("/dev/shm", "options=rbind:rw"),
            *_flags("--mount", (bind(path, "options=rbind:rw") for path in plan.mounts)),
            *_flags("--gpus", (str(index) for _, index in plan.devices)),
            full_reference(plan.image, runtime.registry), plan.name, SHELL, *tail,
        ]  # fmt: skip
    own: list[str] = []
    if runtime.name == "podman":  # its default is higher than what root may set in a container of the platform
        own += _flags("--ulimit", (f"{name}={_MOST_FILES}:{_MOST_FILES}" for name in ("nofile", "nproc")))
        own += _flags("--device", (cdi_name(name, index, cdi) for name, index in plan.devices))
    elif plan.devices:
        own += ["--gpus", '"device={}"'.format(",".join(name for name, _ in plan.devices))]
    return [
        *runtime.words, "run", "--detach", "--rm", "--name", plan.name, "--pull", "never", "--log-driver", "none",
        "--pid", "host", "--network", "host", "--ipc", "host", "--security-opt", "label=disable", "--no-healthcheck",
        "--user", "0", "--workdir", "/", "--label", f"{_PREFIX}={plan.name}", "--entrypoint", SHELL, *own,
        *_flags("--mount", (bind(path) for path in plan.mounts)), plan.image, *tail,
    ]  # fmt: skip


def ask_pid(runtime: Runtime, plan: Plan) -> list[str]:
    """Return the command that prints the number of the container's process; none where a file says it."""
    if runtime.name == "containerd":
        return []
    return [*runtime.words, "container", "inspect", "--format", "{{.State.Pid}}", plan.name]


def removals(runtime: Runtime, name: str) -> list[list[str]]:
    """Return the commands that remove a container; each may fail where it is gone already."""
    if runtime.name == "containerd":
        kill = [*runtime.words, "task", "rm", "--force", name]
        return [kill, [*runtime.words, "containers", "rm", name]]
    return [[*runtime.words, "rm", "--force", name]]


def is_gone(said: str) -> bool:
    """Say whether a removal that failed says that there is nothing to remove."""
    return bool(re.search(r"no such container|not found|no container with", said, re.IGNORECASE))


def is_going(said: str) -> bool:
    """Say whether a removal that failed says that another is under way, as when Docker has begun by itself."""
    return "already in progress" in said


def cdi_name(name: str, index: int, cdi: str) -> str:
    """Return a device's name in the Container Device Interface: by its UUID where that is listed, else its index."""
    return f"nvidia.com/gpu={name if name in cdi else index}"


def mounted(launch: Mapping[str, Any], also: Sequence[str], exists: Iterable[str]) -> tuple[str, ...]:
    """Return what a launch needs inside under the same paths, parents first and nothing twice.

    Args:
        launch: the record.
        also: the platform's own folders.
        exists: of the inputs with absolute paths, those that are there.
    """
    wanted = [*also, launch["workdir"], *exists]
    if launch["checkpoint"]:
        wanted.append(launch["checkpoint"]["path"])
        if launch["checkpoint"].get("resume_from"):
            wanted.append(launch["checkpoint"]["resume_from"])
    if launch.get("mps"):
        wanted.append(launch["mps"])
    found: list[str] = []
    for path in sorted({path.rstrip("/") for path in wanted if path.startswith("/") and path.rstrip("/")}):
        if not any(path.startswith(f"{above}/") for above in found):
            found.append(path)
    return tuple(found)


def image_environment(own: Mapping[str, str], image: Mapping[str, str]) -> dict[str, str]:
    """Return what a job inherits in an image: of the machine how to reach the world, else what the image says."""
    passed = ("LANG", "LC_ALL", "TZ", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
    left = {name: value for name, value in image.items() if name not in ("HOSTNAME", "TERM", "PWD", "OLDPWD", "SHLVL")}
    machine = {name: own[name] for name in passed if name in own}
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", **machine, **left}


def bind(path: str, more: str = "") -> str:
    """Return a bind mount as the runtimes read it: fields of a line of CSV."""
    fields = ("type=bind", f"src={path}", f"dst={path}", *((more,) if more else ()))
    return ",".join(
        '"{}"'.format(field.replace('"', '""')) if re.search(r'[,"\n]', field) else field for field in fields
    )


def _flags(flag: str, values: Iterable[str]) -> list[str]:
    return [word for value in values for word in (flag, value)]
