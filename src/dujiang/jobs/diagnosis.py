"""What the platform says about how an attempt ended: the facts that go in, the verdict that comes out.

The types live here because `jobs` decides on a retry by them; how the verdict is reached is for `health`, which `jobs`
may not import: it declares what it needs (`Diagnose`) and the wiring fills it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from dujiang.engines.contract import Observation


class Blame(StrEnum):
    """Whose doing it was; the retry policy asks this first."""

    INFRASTRUCTURE = "infrastructure"
    """Hardware, network, storage or a kill from outside: the same work may succeed elsewhere or later."""
    PLATFORM = "platform"
    """Set-up or a decision of the centre: drivers, runtimes, preemption. People who run it must act."""
    USER = "user"
    """The program, its input or what it asked for: the same work fails again."""
    UNKNOWN = "unknown"
    """Nothing proves either."""


@dataclass(frozen=True, slots=True)
class AttemptFacts:
    """Everything known about an attempt that has ended, in the engine's words."""

    observation: Observation
    """How it ended: `end`, `exit_code`, `signal`, `rank` and the evidence the engine gives."""
    output: Mapping[int, str] = field(default_factory=dict)
    """The end of each rank's output, rank -> text; some tens of KiB are enough, more is cut."""
    kernel: tuple[str, ...] = ()
    """Kernel messages of its nodes while it ran, oldest first."""
    stop_reason: str = ""
    """Why the platform asked the engine to stop it (`Cancelled`, `Preempted` ...); empty when it did not ask."""
    stop_sentence: str = ""
    """The same for people, where there is more to say."""
    time_limit_s: float | None = None
    memory_bytes: int | None = None
    """The memory limit of one rank."""
    gpu_memory_bytes: int | None = None
    """The device memory given to one rank; None when it got no device or no memory limit."""


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One line that supports a diagnosis, exactly as it was read."""

    source: str
    """`output`, `kernel`, or the engine's own word (`limit-group`, `supervisor` ...); `exit` for the exit status."""
    line: str
    where: str = ""
    """`rank 1, line 214 of what was kept`, and the frame of the user's own code where there is one."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A finding that was weighed and did not win."""

    cause: str
    blame: Blame
    signature: str
    line: str
    why_not: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Why an attempt ended, in words and with proof."""

    cause: str
    """PascalCase, one of `health.causes.Cause`; the attempt's reason."""
    blame: Blame
    sentence: str
    """Plain words for a person."""
    evidence: tuple[Exhibit, ...] = ()
    """The strongest first."""
    advice: str = ""
    """What to do next."""
    confidence: float = 0.0
    """0 to 1; a measured fact of the engine is near 1, the last line of an unknown text near 0."""
    retryable: bool | None = None
    """Whether the same work may succeed when run again; None leaves it to the policy for unknown causes."""
    signature: str = ""
    """Identifier of the signature or rule that decided."""
    scope: str = "job"
    """What is broken: `job`, `gpu`, `node`, `network`, `storage`, `platform`, `user-code`."""
    severity: str = "general"
    """`info`, `general`, `severe`, `critical`: how loud an operator is told."""
    rivals: tuple[Rival, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, for the attempt's row."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Diagnosis:
        """Return the diagnosis of a stored row; members that this version does not know are left out."""
        known = {name: row[name] for name in cls.__dataclass_fields__ if name in row}
        return cls(
            **{
                **known,
                "blame": Blame(row["blame"]),
                "evidence": tuple(Exhibit(**exhibit) for exhibit in row.get("evidence", ())),
                "rivals": tuple(Rival(**{**r, "blame": Blame(r["blame"])}) for r in row.get("rivals", ())),
            }
        )


class Diagnose(Protocol):
    """What `jobs` asks of whoever understands failures: pure, synchronous, milliseconds."""

    def __call__(self, facts: AttemptFacts) -> Diagnosis:
        """Say why the attempt ended."""
        ...
