"""The registry: versions that jobs make, their aliases, and looking them up.

Functions take the transaction first and never commit. Who may do what is decided by the caller (`tenancy.access`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.service import JobService
from dujiang.kit import journal
from dujiang.kit.db import Tx
from dujiang.kit.errors import did_you_mean
from dujiang.kit.ids import Ids, is_id
from dujiang.models import events
from dujiang.models.artifacts import ArtifactRefused, Taken
from dujiang.models.domain import (
    LATEST,
    VERSION_LABEL,
    VERSION_STATES,
    Lineage,
    Model,
    ModelVersion,
    NoSuchAlias,
    NoSuchModel,
    NoSuchVersion,
    SeveralModels,
    VersionNumber,
    VersionReason,
    VersionState,
    check_alias,
    choose_number,
    environment_of,
    finite,
    inputs_of,
    is_alias,
    require_ready,
)
from dujiang.models.store import registry as store
from dujiang.models.store.registry import Listed
from dujiang.telemetry.service import Telemetry


class ModelRegistry:
    """Use cases of registered models."""

    def __init__(self, *, ids: Ids, jobs: JobService, telemetry: Telemetry) -> None:
        self._ids, self._jobs, self._telemetry = ids, jobs, telemetry

    # -- versions that jobs make -----------------------------------------------------------------------------------

    async def job_ended(self, tx: Tx, record: journal.Record) -> None:
        """Propose a version for a job that completed and has a model among its outputs; once for each job."""
        if record.payload.get("state") != JobState.COMPLETED:
            return
        job = await self._jobs.find_job(tx, record.subject)
        if job is None or job.spec.outputs.model is None or await store.version_of_job(tx, job.id) is not None:
            return
        wanted = job.spec.outputs.model
        model = await self._model_of(tx, job, wanted.name)
        number, remark = await self._number(tx, model, job)
        version = ModelVersion(
            id=self._ids.new("mv"), model_id=model.id, project_id=model.project_id, model=model.name, number=number,
            state=VERSION_STATES.start, reason=VersionReason.AWAITING_FIGURES, sentence=remark, job_id=job.id,
            attempt=job.attempt, created_at=tx.now, created_by=job.submitted_by,
        )  # fmt: skip
        await store.add_version(tx, version, Lineage(job.spec.name, wanted.path, params=job.spec.params))
        tx.emit(
            events.ModelVersionProposed(
                subject=version.id, project_id=model.project_id, model=model.name, version=str(number), job_id=job.id,
                attempt=job.attempt,
            )
        )  # fmt: skip

    async def pending(self, tx: Tx, *, after: str = "", limit: int = 100) -> list[ModelVersion]:
        """Return versions that wait for their file, by identifier."""
        return await store.pending_versions(tx, after=after, limit=limit)

    async def delay(self, tx: Tx, version: ModelVersion, reason: VersionReason, sentence: str) -> None:
        """Write down why a version still waits; the same again changes nothing."""
        if (version.reason, version.sentence) != (reason, sentence):
            await store.save_version(tx, replace(version, reason=reason, sentence=sentence))

    async def settle(
        self, tx: Tx, version: ModelVersion, attempt: Attempt | None, outcome: Taken | ArtifactRefused
    ) -> ModelVersion:
        """Make a PENDING version READY or FAILED, with everything that is known of what it was made from.

        Raises:
            Stale: someone else did meanwhile.
        """
        ready = isinstance(outcome, Taken)
        target = VersionState.READY if ready else VersionState.FAILED
        VERSION_STATES.check(version.label, version.state, target)
        latest = await self._telemetry.latest(tx, version.job_id)
        metrics = finite({one.name: one.last_value for one in latest})
        lineage = await store.lineage_of(tx, version.id)
        if attempt is not None:
            lineage = replace(lineage, inputs=inputs_of(attempt.facts), environment=environment_of(attempt.facts))
        if isinstance(outcome, Taken):
            settled = replace(
                version, state=target, reason=VersionReason.REGISTERED, sentence=_remark(version), metrics=metrics,
                digest=outcome.digest, bytes=outcome.bytes, signature=outcome.signature, ready_at=tx.now,
            )  # fmt: skip
        else:
            settled = replace(version, state=target, reason=outcome.reason, sentence=outcome.sentence, metrics=metrics)
        saved = await store.save_version(tx, settled, lineage)
        tx.emit(_settled_event(saved))
        return saved

    # -- aliases ---------------------------------------------------------------------------------------------------

    async def set_alias(self, tx: Tx, model: Model, alias: str, ref: str, *, by: str) -> ModelVersion:
        """Let an alias name a version of the model; it names no other any more.

        Args:
            ref: number, another alias, or `latest`.
            by: user id.

        Raises:
            BadAlias: it cannot be one.
            NoSuchVersion: there is none.
            VersionNotReady: it has no file.
        """
        check_alias(alias)
        version = require_ready(await self.version(tx, model, ref))
        before = await store.version_by_alias(tx, model.id, alias)
        if before is not None and before.id == version.id:
            return version
        await store.write_alias(tx, model.id, alias, version.id, by)
        tx.emit(
            events.AliasSet(
                subject=model.id, project_id=model.project_id, model=model.name, alias=alias,
                version=str(version.number), previous=str(before.number) if before else "",
            )
        )  # fmt: skip
        return version

    async def remove_alias(self, tx: Tx, model: Model, alias: str) -> None:
        """Let an alias name nothing.

        Raises:
            NoSuchAlias: it names nothing already.
        """
        before = await store.version_by_alias(tx, model.id, alias) if is_alias(alias) else None
        if before is None:
            raise NoSuchAlias(f'The model "{model.name}" has no alias "{alias[:63]}".')
        await store.drop_alias(tx, model.id, alias)
        tx.emit(
            events.AliasRemoved(
                subject=model.id, project_id=model.project_id, model=model.name, alias=alias,
                previous=str(before.number),
            )
        )  # fmt: skip

    # -- look ------------------------------------------------------------------------------------------------------

    async def model(self, tx: Tx, ref: str, project_ids: Collection[str] | None, *, own: Collection[str] = ()) -> Model:
        """Return the model of a name or an identifier.

        Args:
            ref: name or `mdl_...`.
            project_ids: where to look; None is everywhere.
            own: projects that win where several have the name.

        Raises:
            NoSuchModel: there is none there.
            SeveralModels: more than one has the name.
        """
        if is_id(ref, "mdl"):
            found = await store.model_by_id(tx, ref)
            fitting = [found] if found and (project_ids is None or found.project_id in project_ids) else []
        else:
            fitting = await store.find_models(tx, name=ref, project_ids=project_ids, limit=50)
        if len(fitting) > 1:
            fitting = [one for one in fitting if one.project_id in own] or fitting
        if len(fitting) > 1:
            raise SeveralModels(f'Several projects have a model "{ref}"; name one of them as the project.')
        if not fitting:
            known = await store.find_models(tx, project_ids=project_ids, limit=200)
            hint = did_you_mean(ref[:70], [one.name for one in known])
            raise NoSuchModel(f'There is no model "{ref[:70]}", or none that you may see.{hint}')
        return fitting[0]

    async def models(
        self, tx: Tx, project_ids: Collection[str] | None, *, after: str = "", limit: int = 500
    ) -> list[Listed]:
        """Return models in the order in which they came to be, after an identifier."""
        return await store.listed(tx, await store.find_models(tx, project_ids=project_ids, after=after, limit=limit))

    async def listed(self, tx: Tx, model: Model) -> Listed:
        """Return a model as a listing shows it."""
        (one,) = await store.listed(tx, [model])
        return one

    async def versions(
        self, tx: Tx, model: Model, *, before: VersionNumber | None = None, limit: int = 500
    ) -> list[ModelVersion]:
        """Return versions of a model, the greatest number first, below a number."""
        return await store.version_page(tx, model.id, before=before, limit=limit)

    async def version(self, tx: Tx, model: Model, ref: str) -> ModelVersion:
        """Return the version of a number (`v1.2.0`, `1.2.0`), an alias, or `latest`: the greatest that is READY.

        Raises:
            NoSuchVersion: there is none.
        """
        found: ModelVersion | None = None
        if (number := VersionNumber.parse(ref)) is not None:
            found = await store.version_by_number(tx, model.id, number)
        elif ref == LATEST:
            found = await store.latest_ready(tx, model.id)
        elif is_alias(ref):
            found = await store.version_by_alias(tx, model.id, ref)
        if found is None:
            known = [str(one.number) for one in await store.version_page(tx, model.id, limit=5)]
            there = f"it has {', '.join(known)}" if known else "it has none yet"
            raise NoSuchVersion(f'The model "{model.name}" has no version or alias "{ref[:70]}"; {there}.')
        return found

    async def lineage(self, tx: Tx, version: ModelVersion) -> Lineage:
        """Return what a version was made from."""
        return await store.lineage_of(tx, version.id)

    async def aliases(self, tx: Tx, versions: Sequence[ModelVersion]) -> dict[str, list[str]]:
        """Return the aliases of versions by the version's identifier; those without one are left out."""
        return await store.aliases_of(tx, [one.id for one in versions])

    async def alias_map(self, tx: Tx, model: Model) -> dict[str, str]:
        """Return what each alias of a model names."""
        return await store.alias_map(tx, model.id)

    async def digests(self, tx: Tx) -> set[str]:
        """Return the digests of all files that versions need, for clearing the object store of others."""
        return await store.digests(tx)

    async def _model_of(self, tx: Tx, job: Job, name: str) -> Model:
        found = await store.find_models(tx, name=name, project_ids=[job.project_id], limit=1)
        if found:
            return found[0]
        model = Model(self._ids.new("mdl"), job.project_id, name, tx.now, job.submitted_by)
        await store.add_model(tx, model)
        tx.emit(events.ModelCreated(subject=model.id, project_id=model.project_id, name=name))
        return model

    async def _number(self, tx: Tx, model: Model, job: Job) -> tuple[VersionNumber, str]:
        asked = job.labels.get(VERSION_LABEL, "").strip()
        wanted = VersionNumber.parse(asked)
        taken = wanted is not None and await store.version_by_number(tx, model.id, wanted) is not None
        return choose_number(await store.newest_number(tx, model.id), asked, taken=taken)


def _remark(version: ModelVersion) -> str:
    """Keep what was said of the number; what was said of waiting is over."""
    return version.sentence if version.reason == VersionReason.AWAITING_FIGURES else ""


def _settled_event(version: ModelVersion) -> journal.Event:
    if version.state is VersionState.READY:
        return events.ModelVersionRegistered(
            subject=version.id, project_id=version.project_id, model=version.model, version=str(version.number),
            job_id=version.job_id, attempt=version.attempt, digest=version.digest, bytes=version.bytes,
        )  # fmt: skip
    return events.ModelVersionFailed(
        subject=version.id, project_id=version.project_id, model=version.model, version=str(version.number),
        job_id=version.job_id, attempt=version.attempt, reason=version.reason,
    )  # fmt: skip
