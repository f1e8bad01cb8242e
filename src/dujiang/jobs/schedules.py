"""The door to schedules: create, look, pause, run. What is due is seen to by `loop.scheduled`.

Functions take the transaction first, and never commit. Who may do what is decided by the caller (`tenancy.access`), but
for runs that are due: there is no caller then, so here it is asked what the schedule's owner may do at that time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Final

from dujiang.jobs import group_store
from dujiang.jobs import schedule_store as store
from dujiang.jobs.domain import JobEndedAlready
from dujiang.jobs.domain.schedules import (
    DEFAULT_CATCH_UP_S,
    NoSuchSchedule,
    Outcome,
    Overlap,
    Run,
    RunNotOver,
    Schedule,
    ScheduleNameTaken,
    Verdict,
    check,
    look,
    next_due,
)
from dujiang.jobs.schedule_events import (
    ScheduleCreated,
    ScheduleDeleted,
    SchedulePaused,
    ScheduleRan,
    ScheduleResumed,
)
from dujiang.jobs.service import JobService, check_submitted
from dujiang.jobs.spec import JobSpec, Secret
from dujiang.kit.db import Tx
from dujiang.kit.ids import Ids
from dujiang.tenancy.domain import ArchivedProject, Permission, Principal
from dujiang.tenancy.service import Tenancy

LABEL: Final = "dujiang/schedule"
KEPT_RUNS: Final = 200
"""Of each schedule."""
REPLACED: Final = "Replaced"
"""Reason of work that made way for the next run of its schedule."""


class ScheduleService:
    """Use cases of schedules."""

    def __init__(self, *, ids: Ids, jobs: JobService, tenancy: Tenancy) -> None:
        self._ids, self._jobs, self._tenancy = ids, jobs, tenancy

    # -- change ----------------------------------------------------------------------------------------------------

    async def create(
        self, tx: Tx, name: str, spec: JobSpec, *, project_id: str, by: str, cron: str, time_zone: str = "UTC",
        overlap: Overlap = Overlap.SKIP, catch_up_s: float = DEFAULT_CATCH_UP_S,
    ) -> Schedule:  # fmt: skip
        """Have work submitted again and again.

        Args:
            tx: the transaction.
            name: unique in the project.
            spec: with every secret as a value.
            project_id: whose quota and bill it is.
            by: user id; runs are submitted in this user's name.
            cron: minute, hour, day, month, weekday.
            time_zone: in which the expression is meant.
            overlap: what happens when the run before has not ended.
            catch_up_s: how late a run may still begin.

        Raises:
            BadCron, BadTimeZone, SpecInvalid: as they say.
            ScheduleNameTaken: the project has one of that name.
        """
        check_submitted(spec)
        secrets = spec.secret_values
        cron = " ".join(cron.split())
        made = Schedule(
            id=self._ids.new("sch"), project_id=project_id, name=name, cron=cron, time_zone=time_zone, spec=spec,
            overlap=overlap, catch_up_s=catch_up_s, created_by=by, created_at=tx.now, looked_at=tx.now,
            next_at=check(cron, time_zone, now=tx.now),
        )  # fmt: skip
        if not await store.add(tx, made, secrets):
            raise ScheduleNameTaken(f'The project has a schedule "{name}"; delete it first, or choose another name.')
        tx.emit(
            ScheduleCreated(
                subject=made.id, project_id=project_id, name=name, cron=cron, time_zone=time_zone, overlap=str(overlap),
                created_by=by,
            )
        )  # fmt: skip
        return made

    async def pause(self, tx: Tx, schedule_id: str) -> Schedule:
        """Let nothing more be submitted; what runs goes on. Asking again changes nothing."""
        one = await self._locked(tx, schedule_id)
        if one.paused_at is not None:
            return one
        tx.emit(SchedulePaused(subject=one.id, project_id=one.project_id, name=one.name))
        return await self._save(tx, replace(one, paused_at=tx.now, looked_at=tx.now, next_at=None))

    async def resume(self, tx: Tx, schedule_id: str) -> Schedule:
        """Go on with the next time; what was due meanwhile is not made up for. Asking again changes nothing."""
        one = await self._locked(tx, schedule_id)
        if one.paused_at is None:
            return one
        tx.emit(ScheduleResumed(subject=one.id, project_id=one.project_id, name=one.name))
        coming = next_due(one.cron, one.time_zone, tx.now)
        return await self._save(tx, replace(one, paused_at=None, looked_at=tx.now, next_at=coming))

    async def delete(self, tx: Tx, schedule_id: str) -> None:
        """Remove a schedule; what it submitted goes on."""
        one = await self._locked(tx, schedule_id)
        await store.drop(tx, one.id)
        tx.emit(ScheduleDeleted(subject=one.id, project_id=one.project_id, name=one.name))

    async def run_now(self, tx: Tx, schedule_id: str, principal: Principal) -> Run:
        """Submit the work of a schedule at once, in the name of who asks; when it is due next stays as it was.

        Raises:
            RunNotOver: the run before has not ended, and the schedule lets no two run at the same time.
            SpecInvalid, ImpossibleRequest: as `JobService.submit_many`.
        """
        one = await self._locked(tx, schedule_id)
        live = await self._live(tx, one)
        if live and one.overlap is Overlap.SKIP:
            raise RunNotOver(f"{live[0]} has not ended; cancel it, or wait.", work=live[0])
        await self._clear(tx, live if one.overlap is Overlap.REPLACE else ())
        run = Run(one.id, tx.now, Outcome.SUBMITTED, by_hand=True)
        if not await store.add_run(tx, run):
            raise RunNotOver("It was run in this very moment already.")
        return await self._submit(tx, one, run, principal)

    async def see_to(self, tx: Tx, schedule_id: str) -> Run | None:
        """Do what is due of a schedule; return it, or None when nothing is, or another process was first.

        Raises:
            DujiangError: the work cannot be submitted; nothing may be kept of this transaction. See `refuse`.
        """
        found = await self._due(tx, schedule_id)
        if found is None:
            return None
        one, verdict = found
        if verdict.run is None or not await store.add_run(tx, verdict.run):
            return None
        if verdict.run.outcome is not Outcome.SUBMITTED:
            self._tell(tx, one, verdict.run)
            return verdict.run
        await self._clear(tx, verdict.cancel)
        return await self._submit(tx, one, verdict.run, await self._owner(tx, one))

    async def refuse(self, tx: Tx, schedule_id: str, why: str) -> Run | None:
        """Note that what is due of a schedule could not be submitted; return that, or None when nothing is due."""
        found = await self._due(tx, schedule_id)
        if found is None or found[1].run is None:
            return None
        run = replace(found[1].run, outcome=Outcome.REFUSED, sentence=why)
        if not await store.add_run(tx, run):
            return None
        self._tell(tx, found[0], run)
        return run

    # -- look ------------------------------------------------------------------------------------------------------

    async def schedule(
        self, tx: Tx, ref: str, project_ids: Collection[str] | None, *, own: Collection[str] = ()
    ) -> Schedule:
        """Return a schedule by name or id.

        Args:
            tx: the transaction.
            ref: name or `sch_...`.
            project_ids: where to look; None is everywhere.
            own: projects that win where several have the name.

        Raises:
            NoSuchSchedule: there is none there, or several have the name.
        """
        found = await store.find(tx, project_ids=project_ids, ref=ref, limit=50)
        if len(found) > 1:
            found = [one for one in found if one.project_id in own] or found
        if len(found) > 1:
            raise NoSuchSchedule(f'Several projects have a schedule "{ref}"; name one of them as the project.')
        if not found:
            shown = "".join(c if c.isprintable() else "?" for c in ref[:70])
            raise NoSuchSchedule(
                f'There is no schedule "{shown}", or none that you may see; `dujiang schedule list` lists them.'
            )
        return found[0]

    async def schedules(
        self, tx: Tx, project_ids: Collection[str] | None, *, before: str | None = None, limit: int = 500
    ) -> list[Schedule]:
        """Return schedules, the newest first, from behind an identifier on."""
        return await store.find(tx, project_ids=project_ids, before=before, limit=limit)

    async def runs(self, tx: Tx, schedule_id: str, *, limit: int = 20) -> list[Run]:
        """Return the runs of a schedule, the latest first; the last 200 are kept."""
        return await store.runs(tx, schedule_id, limit=limit)

    async def due(self, tx: Tx, *, limit: int = 100) -> list[str]:
        """Return the schedules to look at now."""
        return await store.due(tx, tx.now, limit=limit)

    # -- helpers ---------------------------------------------------------------------------------------------------

    async def _locked(self, tx: Tx, schedule_id: str) -> Schedule:
        one = await store.lock(tx, schedule_id)
        if one is None:
            raise NoSuchSchedule("The schedule is gone.")
        return one

    async def _save(self, tx: Tx, one: Schedule) -> Schedule:
        await store.save(tx, one)
        return one

    async def _due(self, tx: Tx, schedule_id: str) -> tuple[Schedule, Verdict] | None:
        """Look at a schedule, locked, and move it on to its next time."""
        one = await store.lock(tx, schedule_id)
        if one is None or one.paused_at is not None:
            return None
        verdict = look(one, await self._live(tx, one), now=tx.now)
        one = await self._save(tx, replace(one, looked_at=tx.now, next_at=verdict.next_at))
        await store.prune_runs(tx, one.id, keep=KEPT_RUNS)
        return one, verdict

    async def _live(self, tx: Tx, one: Schedule) -> list[str]:
        runs = await store.runs(tx, one.id, limit=KEPT_RUNS)
        return await group_store.live_among(tx, [run.work_id for run in runs if run.work_id])

    async def _owner(self, tx: Tx, one: Schedule) -> Principal:
        """Return the user in whose name a schedule runs, who may still submit there.

        Raises:
            NotFound, Forbidden: they may not any more.
            ArchivedProject: the project takes no new work.
        """
        owner = await self._tenancy.principal(tx, one.created_by)
        owner.require(Permission.JOB_SUBMIT, one.project_id)
        project = await self._tenancy.project(tx, one.project_id)
        if project.archived_at is not None:
            raise ArchivedProject(f"The project {project.name!r} is archived; it takes no new work.")
        return owner

    async def _clear(self, tx: Tx, work_ids: Sequence[str]) -> None:
        for ident in work_ids:
            try:
                if group_store.is_array(ident):
                    await self._jobs.cancel_array(tx, ident, reason=REPLACED)
                else:
                    await self._jobs.cancel(tx, ident, reason=REPLACED)
            except JobEndedAlready:
                continue

    async def _submit(self, tx: Tx, one: Schedule, run: Run, principal: Principal) -> Run:
        kept = await store.secrets_of(tx, one.id)
        spec = replace(one.spec, secrets={name: Secret(value=value) for name, value in kept.items()})
        (work,) = await self._jobs.submit_many(
            tx, [spec], project_ids=[one.project_id], submitted_by=principal.user_id, labels={LABEL: one.id},
            reach=principal.reach(Permission.JOB_READ),
        )  # fmt: skip
        run = replace(run, work_id=work.id)
        await store.set_work(tx, run)
        self._tell(tx, one, run)
        return run

    def _tell(self, tx: Tx, one: Schedule, run: Run) -> None:
        tx.emit(
            ScheduleRan(
                subject=one.id, project_id=one.project_id, name=one.name, due_at=run.due_at.isoformat(),
                outcome=str(run.outcome), work_id=run.work_id, by_hand=run.by_hand, sentence=run.sentence,
            )
        )  # fmt: skip
