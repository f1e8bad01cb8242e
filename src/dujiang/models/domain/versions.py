"""Registered models: version numbers, the life of a version, aliases, and what a version was made from. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final

from dujiang.kit.errors import Conflict, Invalid, NotFound
from dujiang.kit.state import Machine

LATEST: Final = "latest"
VERSION_LABEL: Final = "model-version"
"""Label of a job that asks for another number than the next minor one: `v2.0.0`, `major`, `minor` or `patch`."""
MOST_PACKAGES: Final = 2000
_LARGEST_ASKED: Final = 999_999  # far below what a column holds, so that there is always a next one
_LONGEST_TEXT: Final = 255
_NUMBER = re.compile(r"v?(\d{1,9})\.(\d{1,9})\.(\d{1,9})", re.ASCII)
_ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_LIKE_A_NUMBER = re.compile(r"v\d")


@dataclass(frozen=True, slots=True, order=True)
class VersionNumber:
    """`v1.2.3`; ordered as numbers."""

    major: int
    minor: int
    patch: int

    def __str__(self) -> str:
        return f"v{self.major}.{self.minor}.{self.patch}"

    @classmethod
    def parse(cls, text: str) -> VersionNumber | None:
        """Return the number of `v1.2.3` or `1.2.3`, or None for anything else."""
        match = _NUMBER.fullmatch(text)
        return cls(int(match[1]), int(match[2]), int(match[3])) if match else None

    def after(self, part: str) -> VersionNumber:
        """Return the next number that raises `major`, `minor` or `patch`."""
        match part:
            case "major":
                return VersionNumber(self.major + 1, 0, 0)
            case "patch":
                return VersionNumber(self.major, self.minor, self.patch + 1)
            case _:
                return VersionNumber(self.major, self.minor + 1, 0)


FIRST: Final = VersionNumber(1, 0, 0)
PARTS: Final = ("major", "minor", "patch")


def choose_number(newest: VersionNumber | None, asked: str, *, taken: bool) -> tuple[VersionNumber, str]:
    """Return the number of a new version, and a remark where it is not the one that was asked for.

    What a job has made is never thrown away over its number: a wish that cannot be met gives the next minor one.

    Args:
        newest: the greatest number that the model has; None for its first version.
        asked: the label `model-version` of the job; empty for none.
        taken: whether the number that was asked for is in use.
    """
    usual = newest.after("minor") if newest else FIRST
    if not asked:
        return usual, ""
    if asked in PARTS:
        return (newest.after(asked) if newest else FIRST), ""
    wanted = VersionNumber.parse(asked)
    if wanted is None or max(wanted.major, wanted.minor, wanted.patch) > _LARGEST_ASKED:
        return usual, (
            f'The label {VERSION_LABEL} of the job says "{asked[:40]}"; it takes major, minor, patch or a number such '
            f"as v2.0.0. {usual} was taken."
        )
    if taken:
        return usual, f"There was a version {wanted} already, so {usual} was taken."
    return wanted, ""


class VersionState(StrEnum):
    """Where a model version stands."""

    PENDING = "PENDING"
    """Its job completed; its file is still to be stored."""
    READY = "READY"
    FAILED = "FAILED"
    """Its file could not become a version."""


VERSION_STATES: Final = Machine(
    "model version",
    {
        VersionState.PENDING: frozenset({VersionState.READY, VersionState.FAILED}),
        VersionState.READY: frozenset(),
        VersionState.FAILED: frozenset(),
    },
    start=VersionState.PENDING,
)


class VersionReason(StrEnum):
    """Why a version is in its state."""

    AWAITING_FIGURES = "AwaitingFigures"
    OBJECT_STORE_AWAY = "ObjectStoreAway"
    CLUSTER_AWAY = "ClusterAway"
    """The cluster that holds its file does not answer."""
    REGISTERED = "Registered"
    NO_OUTPUT_FOLDER = "NoOutputFolder"
    OUTSIDE_OUTPUT_FOLDER = "OutsideOutputFolder"
    FILE_MISSING = "FileMissing"
    FILE_UNREADABLE = "FileUnreadable"
    NOT_A_FILE = "NotAFile"
    FILE_EMPTY = "FileEmpty"
    FILE_TOO_LARGE = "FileTooLarge"
    NOT_LOADABLE = "NotLoadable"
    CHECK_BROKE_OFF = "CheckBrokeOff"


@dataclass(frozen=True, slots=True)
class Model:
    """A registered model: a name of a project under which versions are kept."""

    id: str
    project_id: str
    name: str
    created_at: datetime
    created_by: str
    """User id."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a model; never changed once it is READY."""

    id: str
    model_id: str
    project_id: str
    model: str
    """Name of the model."""
    number: VersionNumber
    state: VersionState
    reason: str
    sentence: str
    """The reason for people; empty where there is nothing to add."""
    job_id: str
    attempt: int
    created_at: datetime
    created_by: str
    """Who submitted the job; user id."""
    digest: str = ""
    """`sha256:...` of its file; empty until READY."""
    bytes: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What the job reported last; finite values only."""
    signature: Mapping[str, Any] = field(default_factory=dict)
    """`inputs` and `outputs` of the model: name, datatype, shape; empty until READY."""
    ready_at: datetime | None = None
    lock: int = 0
    """Counts changes of the row."""

    @property
    def label(self) -> str:
        """Return `NAME:vX.Y.Z`, as commands take it."""
        return f"{self.model}:{self.number}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """What a version was made from."""

    job_name: str
    """Name of the job's specification."""
    path: str
    """Of its file, relative to the output folder."""
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Name -> digest, bytes, method."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """`python` and `packages` of the attempt."""


class NoSuchModel(NotFound):
    """No model of that name, or none that the caller may know of."""

    code: ClassVar[str] = "no_such_model"


class NoSuchVersion(NotFound):
    """The model has no such version or alias."""

    code: ClassVar[str] = "no_such_version"


class NoSuchAlias(NotFound):
    """The model has no such alias."""

    code: ClassVar[str] = "no_such_alias"


class BadAlias(Invalid):
    """Not a word that can be an alias."""

    code: ClassVar[str] = "bad_alias"


class VersionNotReady(Conflict):
    """The version has no file: it is still being registered, or could not be."""

    code: ClassVar[str] = "version_not_ready"
    title: ClassVar[str] = "The version is not ready"


class SeveralModels(Invalid):
    """Several projects that the caller sees have something of this name."""

    code: ClassVar[str] = "name_a_project"
    title: ClassVar[str] = "Name a project"


def check_alias(alias: str) -> str:
    """Return the alias if it can be one.

    Raises:
        BadAlias: not lower-case letters, digits, dashes and underscores after a letter, or taken for a version.
    """
    if not _ALIAS.fullmatch(alias) or alias == LATEST or _LIKE_A_NUMBER.match(alias):
        raise BadAlias(
            f'"{alias[:70]}" cannot be an alias; use up to 63 lower-case letters, digits, dashes and underscores, such '
            f'as production. "{LATEST}" and what begins like a version number name versions already.'
        )
    return alias


def is_alias(text: str) -> bool:
    """Say whether a text could be an alias."""
    return _ALIAS.fullmatch(text) is not None and text != LATEST and not _LIKE_A_NUMBER.match(text)


def require_ready(version: ModelVersion) -> ModelVersion:
    """Return the version if it has a file.

    Raises:
        VersionNotReady: PENDING or FAILED.
    """
    if version.state is VersionState.READY:
        return version
    why = f" ({version.sentence})" if version.sentence else ""
    told = (
        f"{version.label} is still being registered{why}; try again in a moment."
        if version.state is VersionState.PENDING
        else f"{version.label} could not be registered{why}; choose another version."
    )
    raise VersionNotReady(told, state=str(version.state), reason=version.reason)


def finite(values: Mapping[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers, by name."""
    return {name: value for name, value in sorted(values.items()) if math.isfinite(value)}


def inputs_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an attempt's facts say of its inputs: name -> digest, bytes, files, method, or an error."""
    given = facts.get("inputs")
    if not isinstance(given, Mapping):
        return {}
    kept = ("digest", "bytes", "files", "method", "error")
    return {
        str(name): {key: one[key] for key in kept if key in one}
        for name, one in given.items()
        if isinstance(one, Mapping)
    }


def environment_of(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return interpreter and packages of an attempt, bounded: the job's own Python said them."""
    given = facts.get("environment")
    if not isinstance(given, Mapping):
        return {}
    kept: dict[str, Any] = {
        key: str(given[key])[:_LONGEST_TEXT]
        for key in ("python", "implementation", "platform", "error")
        if key in given
    }
    packages = given.get("packages")
    if isinstance(packages, Mapping):
        named = sorted((str(name)[:_LONGEST_TEXT], str(version)[:_LONGEST_TEXT]) for name, version in packages.items())
        kept["packages"] = dict(named[:MOST_PACKAGES])
    return kept
