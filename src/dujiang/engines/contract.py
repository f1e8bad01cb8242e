"""The Engine protocol and its words: what every adapter to a scheduler, cluster or machine promises.

An engine runs attempts. It owns no queue of ours and decides nothing: the platform says which devices of which nodes an
attempt gets, the engine makes it true and reports what it sees. The words of Slurm, Kubernetes or Linux are translated
inside the engine and go no further.

Promises, checked by one contract test class for every engine:
- `submit` of a known key does nothing, also while and after it runs: an attempt never runs twice.
- `cancel` and `signal` of a gone key are quiet.
- `observe` leaves out what it does not see; absent is not failed. What has ended stays visible until `forget`.
- An attempt that ended is gone whole: no process, no limit group, no device is left held.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Protocol, runtime_checkable

from dujiang.engines.outputs import MOST_LISTED, OutputFile
from dujiang.kit.errors import DujiangError


class EngineUnavailable(DujiangError):
    """The engine does not answer; the same call may succeed later, and may have taken effect."""

    code, http_status, retryable, title = "engine_unavailable", 503, True, "The engine does not answer"


class EngineRefused(DujiangError):
    """The engine will never run this; retrying does not help."""

    code, http_status, title = "engine_refused", 409, "The engine refuses"


class NodeRefused(EngineRefused):
    """A node that was asked for takes nothing, or is not there (any more): another plan may do."""

    code, retryable, title = "node_refused", True, "A node takes nothing"


class Isolation(StrEnum):
    """How far a share of a device, or a limit, is kept by the engine."""

    ENFORCED = "enforced"
    """Compute and memory are both held to the share."""
    MEMORY_ONLY = "memory-only"
    """Memory is held to the share, compute is not."""
    COUNTED_ONLY = "counted-only"
    """The share is only counted; a greedy program can take more."""


class Phase(StrEnum):
    """What the engine sees of an attempt."""

    PENDING = "PENDING"
    """Accepted, no process yet."""
    RUNNING = "RUNNING"
    ENDED = "ENDED"


class End(StrEnum):
    """How an attempt ended, as a fact; why is for `health` to say."""

    EXITED = "Exited"
    """The program ended by itself; `exit_code` says how."""
    SIGNALED = "Signaled"
    """The program died of `signal`, which the engine did not send."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The kernel killed it at its memory limit (counted by the limit group, not guessed from signal 9)."""
    TIME_LIMIT = "TimeLimit"
    """The engine stopped it at its time limit."""
    STOPPED = "Stopped"
    """The engine stopped it because the platform asked (`cancel`)."""
    SETUP_FAILED = "SetupFailed"
    """The setup commands failed; the program was never started."""
    LAUNCH_FAILED = "LaunchFailed"
    """The engine could not start it: no such folder, no such shell, limits not writable ..."""
    REFUSED = "Refused"
    """The engine took nothing of it and never will (`EngineRefused`); written down by who asked."""
    NODE_REFUSED = "NodeRefused"
    """One of its nodes was closed or gone (`NodeRefused`), or turned it away: nothing of it has run."""
    LOST = "Lost"
    """It ran, and what watched over it is gone without a trace of its end (machine restarted, supervisor killed)."""
    NODE_LOST = "NodeLost"
    """Its node went away."""
    PREEMPTED = "Preempted"
    """The engine took its place for other work or put it off its node, without the platform having asked."""


@dataclass(frozen=True, slots=True, order=True)
class AttemptKey:
    """The identity of one attempt of one job; the engine's idempotency key."""

    job_id: str
    number: int
    """1 for the first."""

    def __str__(self) -> str:
        return f"{self.job_id}.{self.number}"

    @classmethod
    def parse(cls, text: str) -> AttemptKey:
        """Return the key of its printed form.

        Raises:
            ValueError: not of the form `JOB.NUMBER`.
        """
        job_id, _, number = text.rpartition(".")
        if not job_id:
            raise ValueError(f"{text!r} is not an attempt key")
        return cls(job_id, int(number))


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """One accelerator as the engine finds it."""

    name: str
    """Unique within its node and stable over restarts: NVML's UUID where there is one, else the index."""
    index: int
    vendor: str
    """`nvidia`, `amd`, `huawei`, `cambricon` ..., lower case."""
    model: str
    memory_bytes: int
    healthy: bool = True
    isolation: Isolation = Isolation.COUNTED_ONLY
    """What a fraction of this device would get."""
    labels: Mapping[str, str] = field(default_factory=dict)


NEEDS_IMAGE: Final = "dujiang.io/needs-image"
"""Taint of nodes that run nothing without a container image: what has one tolerates it."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node as the engine finds it. Capacities are what work may use, in thousandths of cores and in bytes."""

    name: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int
    devices: tuple[DeviceFacts, ...] = ()
    ready: bool = True
    cordoned: bool = False
    reason: str = ""
    """Why it is not ready or cordoned, in the engine's or the operator's words."""
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[str, ...] = ()
    """`key` or `key=value`: only work that tolerates each of them is to start there."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What an engine can do here, found by trying, not by guessing."""

    kind: str
    """`local`, `simulated`, `slurm`, `kubernetes`."""
    limits: Isolation
    """How CPU, memory and process limits are kept: ENFORCED by limit groups, COUNTED_ONLY by rlimits and affinity."""
    limits_by: str
    """`cgroup-v2`, `cgroup-v1`, `rlimits`, `simulated` ...: the job is told this."""
    device_isolation: Isolation
    """The best isolation of a fraction of a device; COUNTED_ONLY where there are no devices."""
    stacks_ranks: bool
    """Whether several ranks of one job may share a node."""
    images: str = ""
    """What runs a job's container image: `kubernetes`, `pyxis`, `apptainer`, `containerd`, `podman`, `docker`, or
    `simulated`; empty where nothing does, and a launch with an image is refused."""
    simulated: bool = False
    """Nothing real runs there."""
    version: str = ""
    """Of what runs the work, in its own words; empty where it does not say."""
    missing: tuple[str, ...] = ()
    """What would make it better, one sentence each, for `dujiang doctor`."""


@dataclass(frozen=True, slots=True)
class DeviceShare:
    """A share of one device given to a rank."""

    name: str
    index: int
    gpu_milli: int
    """1 to 1000."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class RankPlacement:
    """Where one rank (one `node` of the job's specification) runs, and with what."""

    rank: int
    node: str
    cpu_milli: int
    memory_bytes: int
    disk_bytes: int = 0
    devices: tuple[DeviceShare, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpointing:
    """How the program saves itself."""

    path: str
    """Absolute folder, the same for every attempt of the job; exported as DUJIANG_CHECKPOINT_DIR."""
    signal: int | None = None
    """Sent first when the attempt is to stop, so that it can save."""
    resume_from: str | None = None
    """The last good checkpoint file or folder of earlier attempts; exported as DUJIANG_RESUME_FROM."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file or folder whose content is hashed after setup, for lineage."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything an engine needs to run one attempt."""

    key: AttemptKey
    name: str
    project: str
    run: str
    """Shell text (`/bin/sh -e`; bash where the text begins with `#!`-less bashisms is not guessed)."""
    ranks: tuple[RankPlacement, ...]
    setup: str = ""
    """Shell text run once per attempt before `run`, on the first rank."""
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    """Like env, but written nowhere that another user or a listing can see."""
    image: str | None = None
    """Container image that `setup` and `run` run in; None takes the node's own environment, or the engine's default."""
    workdir: str | None = None
    """Absolute; None gives a folder of the job's own that all its attempts share."""
    checkpoint: Checkpointing | None = None
    time_limit_s: float | None = None
    grace_s: float = 30.0
    """From the save signal to SIGKILL."""
    ports: int = 0
    """How many loopback ports the job needs; exported as PORT, PORT1, PORT2 ..."""
    inputs: tuple[Input, ...] = ()
    record_environment: bool = False
    """Write down interpreter and packages, for lineage."""
    processes_limit: int = 4096
    is_service: bool = False
    """It runs until it is stopped, and answers on its ports."""
    shares_output: bool = False
    """Its ranks can do nothing where they do not all see the same DUJIANG_OUTPUT_DIR: an engine that has no such folder
    refuses it."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A fact that supports a diagnosis, with where it was read."""

    source: str
    """`limit-group`, `kernel`, `supervisor`, `output`, `engine` ..."""
    line: str
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What the engine sees of one attempt."""

    key: AttemptKey
    phase: Phase
    node: str = ""
    """First rank's node."""
    started_at: datetime | None = None
    finished_at: datetime | None = None
    end: End | None = None
    """Set exactly when the phase is ENDED."""
    exit_code: int | None = None
    """Of the rank that ended the attempt; None when it died of a signal."""
    signal: int | None = None
    rank: int | None = None
    """The rank that ended the attempt."""
    evidence: tuple[Evidence, ...] = ()
    ports: tuple[int, ...] = ()
    host: str = "127.0.0.1"
    limits_by: str = ""
    """Which limits this attempt got."""
    workdir: str = ""
    output_dir: str = ""
    """Where DUJIANG_OUTPUT_DIR points, for people: what lies there is read by `outputs` and `output` alone."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """`inputs` (name -> {digest, bytes, method}), `environment`, `peak_memory_bytes`, `cpu_seconds` ... once known."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a running attempt does with what it holds, as the engine measured it just now.

    Use is of what it was given, 0 to 1: a job that keeps half of its one share of a half busy uses 0.5.
    """

    key: AttemptKey
    at: datetime
    devices: float | None = None
    """Mean of its shares, each by its size; None when it has none, or nothing measures them."""
    cpu: float | None = None
    """Since the last time it was asked for; None at the first time, and when nothing measures it."""
    saved_at: datetime | None = None
    """When the program last saved itself, where the engine knows better than the checkpoint's folder."""


@dataclass(frozen=True, slots=True)
class LogChunk:
    """A piece of an attempt's output, as written."""

    rank: int
    offset: int
    """Of the first byte, in that rank's output."""
    data: bytes


class Engine(Protocol):
    """What the platform asks of whatever runs work."""

    kind: ClassVar[str]

    async def capabilities(self) -> Capabilities:
        """Say what this engine can keep here."""
        ...

    async def inventory(self) -> Sequence[NodeFacts]:
        """Return every node with its devices.

        Raises:
            EngineUnavailable: no answer.
        """
        ...

    async def submit(self, launch: Launch) -> None:
        """Start an attempt; returns once the engine has it for good. A known key does nothing.

        Raises:
            EngineUnavailable: no answer; it may have taken effect, so ask again with the same key.
            NodeRefused: not on these nodes, which are closed or gone.
            EngineRefused: it will never run.
        """
        ...

    async def observe(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Observation]:
        """Return what is seen of these attempts; what is not seen is left out.

        Raises:
            EngineUnavailable: no answer.
        """
        ...

    async def usage(self, keys: Sequence[AttemptKey]) -> Mapping[AttemptKey, Usage]:
        """Return what these attempts use now; those that do not run, or of which nothing is measured, are left out.

        Raises:
            EngineUnavailable: no answer.
        """
        ...

    async def signal(self, key: AttemptKey, number: int) -> None:
        """Send a signal to the program of every rank, not to its children."""
        ...

    async def cancel(self, key: AttemptKey, *, grace_s: float | None = None) -> None:
        """Begin to stop an attempt: save signal, grace, kill of everything it started. Returns at once; observe tells.

        Asking again does not start the grace anew; a shorter grace shortens it. `grace_s=None` takes the launch's own.
        """
        ...

    def logs(self, key: AttemptKey, *, rank: int = 0, offset: int = 0, follow: bool = False) -> AsyncIterator[LogChunk]:
        """Yield the output from a byte offset; with follow, until the attempt has ended. A gone key yields nothing.

        A negative offset counts from the end of what is there now: -65536 gives the last 64 KiB, or all that
        is there when it is less.
        """
        ...

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = MOST_LISTED) -> Sequence[OutputFile]:
        """Return the regular files below an attempt's output folder, those nearest to it first; also once forgotten.

        What lies deep or behind thousands of others may be left out; links are.

        Args:
            key: the attempt.
            prefix: of the names of files.
            most: how many at most.

        Raises:
            OutputMissing: there is no such folder (any more).
            OutputOutside, OutputRefused: it was exchanged for a link, or may not be read.
            OutputUnreachable: this engine never can; the sentence says what to set.
            EngineUnavailable: no answer.
        """
        ...

    def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        """Yield what a file of an attempt's output folder holds now, also once it is forgotten.

        Links are followed within the folder, which may be none itself: a job may change what lies there at any moment.

        Args:
            key: the attempt.
            path: relative to the folder, with `/`.
            offset: of the first byte.
            most_bytes: how many at most.

        Raises:
            OutputMissing, OutputNotAFile, OutputOutside, OutputRefused: why there is nothing to read.
            OutputUnreachable, EngineUnavailable: as `outputs`.
        """
        ...

    async def cordon(self, node: str, reason: str) -> None:
        """Let nothing new start on a node, also not by others where the engine can say so."""
        ...

    async def uncordon(self, node: str) -> None:
        """Open a node again."""
        ...

    async def drain(self, node: str, reason: str, *, grace_s: float | None = None) -> None:
        """Cordon a node and begin to stop what runs on it, saving first."""
        ...

    async def attempts(self) -> Sequence[AttemptKey]:
        """Return every attempt that the engine still knows, ours or forgotten by us: what is not ours is an orphan.

        Raises EngineUnavailable where it does not answer: no answer is not "none".
        """
        ...

    async def forget(self, key: AttemptKey) -> None:
        """Drop the record of an ended attempt once the platform has saved its end; output stays readable.

        A key that is still running is left alone.
        """
        ...

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something may have changed, at most that long. A hint to look sooner, never the news itself."""
        ...

    async def close(self) -> None:
        """Let go of sockets and helpers; what runs goes on."""
        ...


@runtime_checkable
class Troubled(Protocol):
    """What an engine offers besides that tells of its cluster by what it was told before: whether that still comes."""

    def trouble(self) -> str:
        """Say what is the matter with a cluster that answers, in one sentence; empty when nothing is."""
        ...


@dataclass(frozen=True, slots=True)
class Accounted:
    """What a cluster's own accounting says of one piece of work that ran for an attempt."""

    key: AttemptKey
    job: str
    """Its name there, such as the number of a batch job."""
    state: str
    """In the cluster's own words, for people."""
    started_at: datetime | None
    """None when it never began."""
    ended_at: datetime | None
    """None while it runs, and when it never began."""
    elapsed_s: float
    """Time that counts as used: without that in which it was suspended."""
    cpu_milli: int
    devices: int
    nodes: tuple[str, ...]


@runtime_checkable
class Accounts(Protocol):
    """What an engine offers besides, whose cluster keeps accounts of its own: the ledger can be compared with them."""

    async def accounted(self, since: datetime, until: datetime) -> Sequence[Accounted]:
        """Return what ran, waited or ended there for attempts of ours in a time; several for a key where it says so.

        Raises:
            EngineUnavailable: no answer.
            EngineRefused: this cluster keeps no accounts.
        """
        ...
