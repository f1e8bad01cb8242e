"""The job specification as a value: typed, frozen, complete.

Decides what a specification holds and how it is written back as a document that reads to the same value. How text
becomes one is for `read`; whether the pool can ever hold it, who may submit it and what its attempts do is for `jobs`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from signal import Signals
from typing import Any, Final, TypeAlias

from dujiang.jobs.spec.distributed import ALONE, Distributed
from dujiang.jobs.spec.order import After, JobArray
from dujiang.jobs.spec.place import ANYWHERE, Deadline, Placement
from dujiang.kit.spec.problems import Problem, SpecInvalid

Param: TypeAlias = str | int | float | bool

DEFAULT_GRACE_S: Final = 30.0
DEFAULT_RETRIES: Final = 3
PARAM_PREFIX: Final = "DUJIANG_PARAM_"


class JobClass(StrEnum):
    """How much a job matters; its weight lies in the band of its class."""

    CORE = "core"
    NORMAL = "normal"
    LOW = "low"


WEIGHT_BANDS: Final[Mapping[JobClass, tuple[int, int]]] = {
    JobClass.CORE: (800, 1000),
    JobClass.NORMAL: (400, 600),
    JobClass.LOW: (100, 300),
}
"""Least and greatest weight of each class, in thousandths, both included."""


class Kind(StrEnum):
    """Whether a job ends by itself."""

    TASK = "task"
    """Runs to its end."""
    SERVICE = "service"
    """Runs until it is cancelled, and answers on a port."""


class Cause(StrEnum):
    """Why an attempt failed, as far as starting it again is concerned."""

    INFRASTRUCTURE = "infrastructure"
    """A node, device, network or storage, or the platform itself."""
    PREEMPTION = "preemption"
    """The platform took the place for a job with more right to it."""
    UNKNOWN = "unknown"
    """Nothing says why."""
    OUT_OF_MEMORY = "out_of_memory"
    """The job wanted more memory than it asked for."""
    TIME_LIMIT = "time_limit"
    """The job ran into its own time limit."""
    USER = "user"
    """The program or its setup failed by itself."""


DEFAULT_RETRY_ON: Final = (Cause.INFRASTRUCTURE, Cause.PREEMPTION)
"""What nothing explains is mostly the program's own doing: it is run again only where the job asks for that."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """The accelerators that each node of the job gets."""

    gpu_milli: int
    """Thousandths of devices: up to 999 a share of one device, from 1000 on whole devices."""
    memory_bytes: int | None = None
    """A share: this much of the device's memory (None: the same share of it). Whole devices: each has at least this."""
    vendor: str | None = None
    """`nvidia`, `amd`, `huawei` ... in lower case; None takes any."""
    model: str | None = None
    """Part of the device's model name, compared without regard to case; None takes any."""

    @property
    def count(self) -> int:
        """Whole devices; 0 when a share of one is asked for."""
        return self.gpu_milli // 1000


@dataclass(frozen=True, slots=True)
class Resources:
    """What each node of the job gets."""

    cpu_milli: int = 1000
    memory_bytes: int = 2**30
    disk_bytes: int = 0
    gpu: Gpu | None = None
    alternatives: tuple[Resources, ...] = ()
    """What will do as well, in order of preference; none of them has alternatives of its own."""

    @property
    def gpu_milli(self) -> int:
        """Thousandths of devices; 0 without GPU."""
        return self.gpu.gpu_milli if self.gpu else 0

    @property
    def choices(self) -> tuple[Resources, ...]:
        """Everything that will do, best first."""
        return (replace(self, alternatives=()), *self.alternatives) if self.alternatives else (self,)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How the program saves itself."""

    path: str | None = None
    """Absolute folder; None gives the job one of its own. Exported as DUJIANG_CHECKPOINT_DIR."""
    interval_s: float | None = None
    """How often the program says it saves: what a fault can cost at most."""
    signal: str | None = None
    """`SIGUSR1` ...: sent first when an attempt is to stop, so that it can save. None sends SIGTERM."""

    @property
    def signal_number(self) -> int | None:
        """The signal as the kernel counts it."""
        return int(Signals[self.signal]) if self.signal else None


@dataclass(frozen=True, slots=True)
class Retry:
    """Whether a failed attempt is followed by another."""

    limit: int = DEFAULT_RETRIES
    """Attempts after the first; 0 never starts again."""
    on: tuple[Cause, ...] = DEFAULT_RETRY_ON
    """The causes that are worth another attempt."""

    def allows(self, cause: Cause, retries_so_far: int) -> bool:
        """Say whether a failure of that cause is to be followed by another attempt."""
        return cause in self.on and retries_so_far < self.limit


@dataclass(frozen=True, slots=True)
class InputData:
    """Data whose content is hashed, so that what was made from it can be traced."""

    name: str
    path: str
    """Relative to the job's working folder, or absolute."""


@dataclass(frozen=True, slots=True)
class ModelOutput:
    """A file that becomes a version of a model when the job completes."""

    name: str
    path: str
    """Relative to DUJIANG_OUTPUT_DIR."""


@dataclass(frozen=True, slots=True)
class Outputs:
    """What the job leaves behind for the platform to keep."""

    model: ModelOutput | None = None


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that is shown nowhere: given literally, or where the submitter's machine has it. Exactly one is set."""

    value: str | None = field(default=None, repr=False)
    variable: str | None = None
    """An environment variable of the submitter."""
    file: str | None = None
    """A file of the submitter; one line feed at its end is left off."""


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a user asks for. Every default is filled in; equal specifications ask for the same."""

    name: str
    run: str
    project: str | None = None
    """Name or id; None leaves it to the submitter's own."""
    kind: Kind = Kind.TASK
    job_class: JobClass = JobClass.NORMAL
    weight_milli: int = 500
    """Thousandths, within the band of the class."""
    resources: Resources = Resources()
    """Of each node."""
    nodes: int = 1
    """As many as it has a use for."""
    nodes_min: int | None = None
    """The fewest that an elastic job can do with; None: it takes `nodes`."""
    setup: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    params: Mapping[str, Param] = field(default_factory=dict)
    image: str | None = None
    """Container image that `setup` and `run` run in; None is the node's own environment, or the cluster's default."""
    workdir: str | None = None
    """None gives the job a folder of its own."""
    checkpoint: Checkpoint | None = None
    retry: Retry = Retry()
    time_limit_s: float | None = None
    """Of each attempt; None sets no limit."""
    grace_s: float = DEFAULT_GRACE_S
    """From the save signal to the kill."""
    ports: int = 0
    """How many; a service has at least one."""
    inputs: tuple[InputData, ...] = ()
    outputs: Outputs = Outputs()
    labels: Mapping[str, str] = field(default_factory=dict)
    after: tuple[After, ...] = ()
    """Jobs that must have ended first."""
    array: JobArray | None = None
    """None is a single job."""
    placement: Placement = ANYWHERE
    queue: str | None = None
    """None is the project's own."""
    deadline: Deadline | None = None
    """When it must be over."""
    distributed: Distributed = ALONE
    """What starts its processes."""

    def document(self, *, reveal_secrets: bool = False) -> dict[str, Any]:
        """Return the specification as JSON values that read back to it.

        Without reveal_secrets, a secret given literally is written as a reference to a variable of its own name, so
        that the document can be shown and, with the variables set, submitted again.
        """
        return {name: value for name, value in _fields(self, reveal_secrets) if value not in (None, "")}

    @property
    def secret_values(self) -> dict[str, str]:
        """The secrets by name.

        Raises:
            SpecInvalid: one is still a reference to the submitter's machine.
        """
        left = [name for name, secret in self.secrets.items() if secret.value is None]
        if left:
            raise SpecInvalid([Problem(f"secrets.{name}", _UNRESOLVED, _RESOLVE) for name in left])
        return {name: secret.value or "" for name, secret in self.secrets.items()}

    @property
    def param_env(self) -> dict[str, str]:
        """The hyper-parameters as the program finds them: DUJIANG_PARAM_LEARNING_RATE and so on."""
        return {param_variable(name): param_text(value) for name, value in self.params.items()}


_UNRESOLVED = "This secret refers to the submitter's machine, where the platform cannot look."
_RESOLVE = "Submit with `dujiang submit`, which fills it in, or send its value."


def resolve_secrets(spec: JobSpec, environ: Mapping[str, str], read_file: Callable[[str], str]) -> JobSpec:
    """Return the specification with every secret as a value, taken from the submitter's environment and files.

    Args:
        environ: the submitter's variables.
        read_file: returns the text of a file; its OSError and ValueError become problems.

    Raises:
        SpecInvalid: a variable is not set or a file cannot be read. No value is ever part of the message.
    """
    problems: list[Problem] = []
    found: dict[str, Secret] = {}
    for name, secret in spec.secrets.items():
        path = f"secrets.{name}"
        if secret.variable is not None:
            if secret.variable in environ:
                found[name] = Secret(value=environ[secret.variable])
            else:
                message = f"The environment variable {secret.variable} is not set."
                problems.append(Problem(path, message, f"Set it: export {secret.variable}=..."))
        elif secret.file is not None:
            try:
                found[name] = Secret(value=read_file(secret.file).removesuffix("\n"))
            except (OSError, ValueError) as error:
                why = error.strerror if isinstance(error, OSError) and error.strerror else "it is not UTF-8 text"
                problems.append(
                    Problem(path, f"The file {secret.file} cannot be read: {why}.", "Name a readable file.")
                )
        else:
            found[name] = secret
        if (value := found.get(name)) is not None and "\0" in (value.value or ""):
            problems.append(Problem(path, "The value holds a NUL byte.", "A secret is text."))
    if problems:
        raise SpecInvalid(problems)
    return replace(spec, secrets=found)


def param_variable(name: str) -> str:
    """Return the environment variable of a hyper-parameter."""
    return PARAM_PREFIX + re.sub(r"[^A-Z0-9]", "_", name.upper())


def param_text(value: Param) -> str:
    """Return a hyper-parameter as programs read it: true and false in lower case, numbers as JSON has them."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _fields(spec: JobSpec, reveal: bool) -> list[tuple[str, Any]]:
    point, retry = spec.checkpoint, spec.retry
    model = spec.outputs.model
    return [
        ("name", spec.name),
        ("project", spec.project),
        ("kind", spec.kind.value),
        ("class", spec.job_class.value),
        ("weight", spec.weight_milli / 1000),
        ("resources", _resources(spec.resources)),
        ("nodes", spec.nodes if spec.nodes_min is None else {"min": spec.nodes_min, "max": spec.nodes}),
        ("setup", spec.setup),
        ("run", spec.run),
        ("env", dict(spec.env) or None),
        ("secrets", {name: _secret(name, secret, reveal) for name, secret in spec.secrets.items()} or None),
        ("params", dict(spec.params) or None),
        ("image", spec.image),
        ("workdir", spec.workdir),
        ("checkpoint", _checkpoint(point) if point else None),
        ("retry", {"limit": retry.limit, "on": [cause.value for cause in retry.on]}),
        ("time_limit", spec.time_limit_s and exact_duration(spec.time_limit_s)),
        ("grace", exact_duration(spec.grace_s)),
        ("ports", spec.ports),
        ("inputs", [{"name": data.name, "path": data.path} for data in spec.inputs] or None),
        ("outputs", {"model": {"name": model.name, "path": model.path}} if model else None),
        ("labels", dict(spec.labels) or None),
        ("after", [one.document() for one in spec.after] or None),
        ("array", spec.array and dict(spec.array.document())),
        ("placement", spec.placement.document() or None),
        ("queue", spec.queue),
        ("deadline", _deadline(spec.deadline) if spec.deadline else None),
        ("distributed", spec.distributed.document() if spec.distributed != ALONE else None),
    ]


def _deadline(deadline: Deadline) -> str | float:
    return deadline.at.isoformat() if deadline.at is not None else exact_duration(deadline.within_s or 0)


def _resources(resources: Resources) -> dict[str, Any]:
    if resources.alternatives:
        return {"any_of": [_resources(one) for one in resources.choices]}
    gpu = resources.gpu
    document: dict[str, Any] = {
        "cpu": _thousandths(resources.cpu_milli),
        "memory": exact_size(resources.memory_bytes),
        "disk": exact_size(resources.disk_bytes),
    }
    if gpu is not None:
        share = {"count": gpu.count} if gpu.count else {"fraction": _thousandths(gpu.gpu_milli)}
        memory = exact_size(gpu.memory_bytes) if gpu.memory_bytes else None
        rest = {"memory": memory, "vendor": gpu.vendor, "model": gpu.model}
        document["gpu"] = share | {name: value for name, value in rest.items() if value is not None}
    return document


def _checkpoint(point: Checkpoint) -> dict[str, Any]:
    interval = exact_duration(point.interval_s) if point.interval_s is not None else None
    document = {"path": point.path, "interval": interval, "signal": point.signal}
    return {name: value for name, value in document.items() if value is not None}


def _secret(name: str, secret: Secret, reveal: bool) -> dict[str, str]:
    if secret.variable is not None:
        return {"variable": secret.variable}
    if secret.file is not None:
        return {"file": secret.file}
    return {"value": secret.value or ""} if reveal else {"variable": name}


def _thousandths(milli: int) -> int | float:
    return milli // 1000 if milli % 1000 == 0 else milli / 1000


_UNITS = (
    ("TiB", 2**40, 1, 256),
    ("GiB", 2**30, 1, 99_999),
    ("MiB", 2**20, 1, 99_999_999),
    ("KiB", 2**10, 10_000, 9_999_999),
)
"""Unit, bytes, least and most of it that the published schema lists."""


def exact_size(size: int) -> str | int:
    """Return bytes as `16GiB` in the largest unit that keeps them exact, or as a number."""
    for unit, factor, least, most in _UNITS:
        if size % factor == 0 and least <= size // factor <= most:
            return f"{size // factor}{unit}"
    return size


def exact_duration(seconds: float) -> str | float:
    """Return seconds as `2h30m`, exactly, or as a number when they are not whole or many."""
    if seconds != int(seconds) or not 0 < seconds < 100 * 86400:
        return seconds
    whole = int(seconds)
    parts = ((whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s"))
    return "".join(f"{amount}{unit}" for amount, unit in parts if amount)
