"""Deployments: start, move and remove them, and carry out what was judged of them.

The service of a deployment is a job like any other: the same pool, engine, ledger and bill. It is submitted and
cancelled in the transaction that changes the deployment.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from dujiang.jobs import spec as jobspec
from dujiang.jobs.domain import Attempt, Job
from dujiang.jobs.service import JobService
from dujiang.jobs.spec import JobSpec
from dujiang.kit import journal
from dujiang.kit.db import Tx
from dujiang.kit.errors import Conflict
from dujiang.kit.ids import Ids, is_id
from dujiang.models import events
from dujiang.models.domain import (
    DEFAULT_RESOURCES,
    DEPLOYMENT_STATES,
    Deployment,
    DeploymentState,
    Judgement,
    Model,
    ModelVersion,
    NoSuchDeployment,
    Service,
    SeveralModels,
    move,
    remove,
    require_ready,
    serve_command,
    stay,
)
from dujiang.models.settings import ModelSettings
from dujiang.models.store import deployments as store

DEPLOYMENT_LABEL = "dujiang/deployment"
MODEL_LABEL = "dujiang/model"


class DeploymentNameTaken(Conflict):
    """A live deployment of the project has the name and serves another model."""

    code: ClassVar[str] = "deployment_name_taken"
    title: ClassVar[str] = "The name is taken"


@dataclass(frozen=True, slots=True)
class JobView:
    """A service's job and its latest attempt, as far as there are any."""

    job: Job | None
    attempt: Attempt | None


class DeploymentService:
    """Use cases of deployments."""

    def __init__(self, *, ids: Ids, jobs: JobService, settings: ModelSettings) -> None:
        self._ids, self._jobs, self._settings = ids, jobs, settings

    # -- change ----------------------------------------------------------------------------------------------------

    async def deploy(
        self, tx: Tx, model: Model, version: ModelVersion, *, by: str, file: Path, name: str | None = None,
        resources: Mapping[str, Any] | None = None,
    ) -> Deployment:  # fmt: skip
        """Deploy a version, or move the deployment of that name to it.

        Args:
            tx: the transaction.
            model: of the version.
            version: what to serve.
            by: user id.
            file: the version's file where the service will find it.
            name: of the deployment; None is the model's.
            resources: as in a job's specification; what is left out stays as it is, or as the default.

        Raises:
            VersionNotReady: the version has no file.
            SpecInvalid, ImpossibleRequest: the resources mean nothing, or the pool could never give them.
            DeploymentNameTaken: the name serves another model.
            BeingRemoved: the deployment of that name is on its way out.
        """
        require_ready(version)
        name = name or model.name
        existing = await self._live(tx, model.project_id, name)
        if existing is not None and existing.model_id != model.id:
            raise DeploymentNameTaken(
                f'"{name}" serves the model "{existing.model}"; remove it first, or choose another name.'
            )
        base = (existing.next or existing.service).resources if existing else DEFAULT_RESOURCES
        spec = self._spec(name, model, version, file, {**base, **(resources or {})})
        wanted = spec.document()["resources"]
        if existing is not None and _lives(existing) and existing.service.serves(version.id, wanted):
            return await self.apply(tx, existing, stay(existing))
        if existing is not None and existing.next is not None and existing.next.serves(version.id, wanted):
            return existing
        one_id = existing.id if existing else self._ids.new("dep")
        labels = {DEPLOYMENT_LABEL: one_id, MODEL_LABEL: version.label}
        job = await self._jobs.submit(tx, spec, project_id=model.project_id, submitted_by=by, labels=labels)
        service = Service(version.id, str(version.number), version.digest, job.id, wanted)
        if existing is not None:
            moved = await self.apply(tx, existing, move(existing, service, at=tx.now))
            tx.emit(
                events.DeploymentMoving(
                    **_about(moved), model=model.name, version=service.version, previous=existing.service.version,
                    job_id=job.id,
                )
            )  # fmt: skip
            return moved
        made = Deployment(
            id=one_id, project_id=model.project_id, name=name, model_id=model.id, model=model.name,
            state=DEPLOYMENT_STATES.start, reason="Submitted", sentence="", service=service, created_at=tx.now,
            created_by=by, state_since=tx.now,
        )  # fmt: skip
        await store.add(tx, made)
        tx.emit(events.DeploymentCreated(**_facts(made)))
        return made

    async def remove(self, tx: Tx, one: Deployment) -> Deployment:
        """Stop a deployment; it is gone once its service has ended. Asking again changes nothing."""
        return await self.apply(tx, one, remove(one, at=tx.now))

    async def apply(self, tx: Tx, before: Deployment, judgement: Judgement) -> Deployment:
        """Carry out what was judged of a deployment as it was read.

        Raises:
            Stale: it was changed meanwhile.
        """
        after = judgement.deployment
        if after != before:
            await store.save(tx, after)
            tx.emit(*_told(before, judgement))
        for job_id in judgement.cancel:
            await self._cancel(tx, job_id)
        return (await store.by_ids(tx, [after.id]))[after.id]

    # -- look ------------------------------------------------------------------------------------------------------

    async def deployment(
        self, tx: Tx, ref: str, project_ids: Collection[str] | None, *, own: Collection[str] = ()
    ) -> Deployment:
        """Return the live deployment of a name, or any by its identifier.

        Args:
            ref: name or `dep_...`.
            project_ids: where to look; None is everywhere.
            own: projects that win where several have the name.

        Raises:
            NoSuchDeployment: there is none there.
            SeveralModels: more than one has the name.
        """
        if is_id(ref, "dep"):
            found = (await store.by_ids(tx, [ref])).get(ref)
            fitting = [found] if found and (project_ids is None or found.project_id in project_ids) else []
        else:
            fitting = await store.find(tx, name=ref, project_ids=project_ids, limit=50)
        if len(fitting) > 1:
            fitting = [one for one in fitting if one.project_id in own] or fitting
        if len(fitting) > 1:
            raise SeveralModels(f'Several projects have a deployment "{ref}"; name one of them as the project.')
        if not fitting:
            raise NoSuchDeployment(
                f'There is no deployment "{ref[:70]}", or none that you may see; `dujiang deployments` lists them.'
            )
        return fitting[0]

    async def deployments(
        self, tx: Tx, project_ids: Collection[str] | None, *, live: bool = True, before: str | None = None,
        limit: int = 500,
    ) -> list[Deployment]:  # fmt: skip
        """Return deployments, the newest first, before an identifier."""
        return await store.find(tx, project_ids=project_ids, live=live, before=before, limit=limit)

    async def watched(self, tx: Tx, *, after: str, limit: int) -> list[Deployment]:
        """Return deployments to which something may happen by itself, by identifier, after one."""
        return await store.watched(tx, after=after, limit=limit)

    async def views(self, tx: Tx, job_ids: Sequence[str]) -> dict[str, JobView]:
        """Return what is known of services' jobs, for every identifier given."""
        jobs = await self._jobs.jobs_of(tx, job_ids)
        attempts = await self._jobs.attempts(tx, [job_id for job_id, job in jobs.items() if not job.has_ended])
        return {
            job_id: JobView(jobs.get(job_id), latest[-1] if (latest := attempts.get(job_id)) else None)
            for job_id in job_ids
        }

    async def digests(self, tx: Tx) -> set[str]:
        """Return the digests of the files that services of live deployments read."""
        return await store.digests(tx)

    async def _live(self, tx: Tx, project_id: str, name: str) -> Deployment | None:
        found = await store.find(tx, name=name, project_ids=[project_id], limit=1)
        return found[0] if found else None

    async def _cancel(self, tx: Tx, job_id: str) -> None:
        job = await self._jobs.find_job(tx, job_id)
        if job is not None and not job.has_ended:
            await self._jobs.cancel(tx, job_id)

    def _spec(
        self, name: str, model: Model, version: ModelVersion, file: Path, resources: Mapping[str, Any]
    ) -> JobSpec:
        """Return the specification of a service.

        Raises:
            SpecInvalid: the resources cannot be read.
        """
        return jobspec.read(
            {
                "name": f"serve-{name}"[:63].rstrip("-"),
                "kind": "service",
                "run": serve_command(self._settings.python, model.name, str(version.number), str(file)),
                "resources": dict(resources),
                "ports": 1,
                "retry": {"limit": self._settings.service_retries},
            }
        )


def _lives(one: Deployment) -> bool:
    return one.state in (DeploymentState.PENDING, DeploymentState.STARTING, DeploymentState.READY)


def _about(one: Deployment) -> dict[str, Any]:
    return {"subject": one.id, "project_id": one.project_id, "name": one.name}


def _facts(one: Deployment, service: Service | None = None) -> dict[str, Any]:
    service = service or one.service
    return {**_about(one), "model": one.model, "version": service.version, "job_id": service.job_id}


def _told(before: Deployment, judgement: Judgement) -> list[journal.Event]:
    """Return what to tell of a change."""
    after, told = judgement.deployment, list[journal.Event]()
    if before.next is not None and after.next is None and not judgement.moved and after.service == before.service:
        reason = judgement.move_failed or "Withdrawn"
        told.append(events.DeploymentMoveFailed(**_facts(before, before.next), reason=reason))
    if judgement.moved:
        told.append(events.DeploymentMoved(**_facts(after), url=after.url))
    elif after.state is not before.state:
        told += _state_told(before, after)
    return told


def _state_told(before: Deployment, after: Deployment) -> list[journal.Event]:
    match after.state:
        case DeploymentState.READY:
            return [events.DeploymentReady(**_facts(after), url=after.url)]
        case DeploymentState.FAILED:
            return [events.DeploymentFailed(**_facts(after), reason=after.reason)]
        case DeploymentState.STOPPING:
            return [events.DeploymentRemovalAsked(**_facts(after))]
        case DeploymentState.REMOVED:
            return [events.DeploymentRemoved(**_facts(after))]
        case state if before.state is DeploymentState.READY:
            return [events.DeploymentInterrupted(**_facts(after), state=str(state), reason=after.reason)]
        case _:
            return []
