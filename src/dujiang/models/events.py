"""What happened to models and deployments. Subject: the version, the model (of an alias), or the deployment."""

from __future__ import annotations

from dataclasses import dataclass

from dujiang.kit.journal import Event


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCreated(Event):
    """A name got its first version. Subject: the model."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersionProposed(Event):
    """A job completed that makes a version; its file is still to be stored."""

    model: str
    version: str
    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersionRegistered(Event):
    """The file of a version is stored and the version can be used."""

    model: str
    version: str
    job_id: str
    attempt: int
    digest: str
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersionFailed(Event):
    """What a job made cannot be a version."""

    model: str
    version: str
    job_id: str
    attempt: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasSet(Event):
    """An alias names another version. Subject: the model."""

    model: str
    alias: str
    version: str
    previous: str
    """The version before; empty when the alias is new."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasRemoved(Event):
    """An alias names nothing any more. Subject: the model."""

    model: str
    alias: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentCreated(Event):
    """A version is to answer under a name."""

    name: str
    model: str
    version: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentMoving(Event):
    """A deployment is to serve something else; what it serves stays in use until that answers."""

    name: str
    model: str
    version: str
    previous: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentMoved(Event):
    """The new service answers and is in use."""

    name: str
    model: str
    version: str
    job_id: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentMoveFailed(Event):
    """The new service did not come up, or was not wanted any more; the one before stays in use."""

    name: str
    model: str
    version: str
    """The one that did not take over."""
    job_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentReady(Event):
    """A deployment answers."""

    name: str
    model: str
    version: str
    job_id: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentInterrupted(Event):
    """A deployment that answered does not, and is expected back."""

    name: str
    model: str
    version: str
    job_id: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentFailed(Event):
    """A deployment's service has ended."""

    name: str
    model: str
    version: str
    job_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRemovalAsked(Event):
    """Someone removed a deployment; its service is being stopped."""

    name: str
    model: str
    version: str
    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeploymentRemoved(Event):
    """A deployment is gone, and so is its service."""

    name: str
    model: str
    version: str
    job_id: str
