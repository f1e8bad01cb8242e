"""Compares what the platform says with what really happened in the virtual cluster."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from decimal import Decimal
from typing import Any, Final

from dujiang.engines.contract import AttemptKey, End
from dujiang.engines.simulated import FleetSpec, Run, Truth
from dujiang.jobs.domain import Attempt, Job, JobState
from dujiang.jobs.history import check_allocations, check_histories
from dujiang.jobs.loop.sweeping import orphans
from dujiang.jobs.service import JobFilter
from dujiang.jobs.spec import WEIGHT_BANDS, Cause
from dujiang.kit import journal
from dujiang.pool.domain import Allocation, LedgerFilter
from dujiang.scheduling.domain import StopWhy
from tests.sim.script import LOST_AFTER_S
from tests.sim.simulation import RENT_PER_DEVICE_HOUR, RENTED, Broken, Simulation

STATES: Final = {
    End.SIGNALED: JobState.FAILED, End.OUT_OF_MEMORY: JobState.OUT_OF_MEMORY, End.TIME_LIMIT: JobState.TIMEOUT,
    End.SETUP_FAILED: JobState.FAILED, End.LOST: JobState.NODE_FAIL, End.NODE_LOST: JobState.NODE_FAIL,
    End.STOPPED: JobState.PREEMPTED,
}  # fmt: skip
CAUSES: Final = {
    End.OUT_OF_MEMORY: Cause.OUT_OF_MEMORY, End.TIME_LIMIT: Cause.TIME_LIMIT, End.SETUP_FAILED: Cause.USER,
    End.LOST: Cause.INFRASTRUCTURE, End.NODE_LOST: Cause.INFRASTRUCTURE, End.STOPPED: Cause.PREEMPTION,
}  # fmt: skip
"""What an end counts as for a retry, where the end alone says it."""
_EXACT: Final = timedelta(milliseconds=1)
"""How far two sums of the same seconds may be apart."""


async def check_any_time(simulation: Simulation) -> None:
    """Check what holds at every moment, also in the middle of everything."""
    platform, db = simulation.replicas[0], simulation.db
    mishaps = simulation.mishaps
    kept = mishaps.busy, mishaps.refused, mishaps.unheard, mishaps.full
    mishaps.calm()  # the question is not whether the database answers
    try:
        async with db.reading() as tx:
            _none("the ledger holds more than there is", [one.sentence for one in await platform.pool.check_ledger(tx)])
            _none("allocations and attempts differ", (await check_allocations(tx, platform.pool))[1])
            _none("a history is not legal", (await check_histories(tx))[1])
            verdict = await platform.billing.verify(tx)
        _none("charges and ledger differ", verdict.offences)
        _none("charges and ledger differ in sum", [one for one in verdict.identities if one.difference])
        _none("the audit chain is broken", (await db.verify_journal())[1])
    finally:
        mishaps.busy, mishaps.refused, mishaps.unheard, mishaps.full = kept


async def check_all(simulation: Simulation) -> None:
    """Check all that holds once everything is quiet."""
    await check_any_time(simulation)
    _check_clusters(simulation)
    platform = simulation.replicas[-1]
    _none("it runs and is nobody's", await orphans(simulation.db, platform.world.clusters))
    for engine in platform.world.clusters.values():
        _none("the engine was not told to forget it", await engine.attempts())
    async with simulation.db.reading() as tx:
        jobs = {job.id: job for job in await platform.jobs.jobs(tx, JobFilter())}
        attempts = await platform.jobs.attempts(tx, sorted(jobs))
        ledger = await platform.pool.allocations(tx, LedgerFilter())
        waiting = (await platform.billing.verify(tx)).waiting
        asked = Counter(
            (record.subject, record.payload["attempt"])
            for record in await journal.read(tx.connection, types=["AttemptStopAsked"], limit=10_000)
        )
        ends = Counter(record.subject for record in await journal.read(tx.connection, types=["JobEnded"], limit=10_000))
        bursts = await journal.read(tx.connection, types=["JobBurst"], limit=10_000)
        secrets = (await tx.connection.exec_driver_sql("SELECT job_id FROM job_secrets")).all()
    _none("a secret outlives its job", secrets)
    if waiting:
        raise Broken(f"{waiting} closed rows of the ledger are not charged")
    _check_jobs(simulation, jobs, attempts, ends)
    _check_stops(jobs, attempts, asked)
    _check_ledger(simulation, ledger, attempts)
    _check_quota(simulation, jobs, attempts)
    _check_bursts(simulation, bursts, attempts)


# -- the cluster -------------------------------------------------------------------------------------------------------


def _check_clusters(simulation: Simulation) -> None:
    _none("it ran on two clusters", _twice(key for one in simulation.clusters.values() for key in one.truth.runs))
    everywhere = Truth()
    for run in simulation.runs().values():
        everywhere.add(run)
    _none("two attempts of one job ran at once", everywhere.ran_together())
    for name, cluster in simulation.clusters.items():
        _check_cluster(cluster.truth, simulation.fleets[name])


def _twice(keys: Iterable[AttemptKey]) -> list[AttemptKey]:
    return [key for key, count in Counter(keys).items() if count > 1]


def _check_cluster(truth: Truth, fleet: FleetSpec) -> None:
    _none("it still runs", truth.running())
    _none("its program began twice", truth.started_twice())
    _none("a device was given twice", truth.over_allocated())
    limits = {node.name: (node.cpu_milli, node.memory_bytes) for node in fleet.build()}
    for column, what in enumerate(("cpu_milli", "memory_bytes")):
        held: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for run in _ran(truth.runs.values()):
            for rank in run.ranks:
                amount = (rank.cpu_milli, rank.memory_bytes)[column]
                held[rank.node] += _interval(run, amount)
        for node, moves in held.items():
            if (worst := _peak(moves)) > limits[node][column]:
                raise Broken(f"{node} really gave {worst} {what}, it has {limits[node][column]}")


def _check_quota(simulation: Simulation, jobs: dict[str, Job], attempts: dict[str, list[Attempt]]) -> None:
    quota = simulation.script.quotas.get("narrow")
    if quota is None:
        return
    project_id = simulation.projects["narrow"]
    for what, limit in (("gpu", quota.gpu_milli), ("cpu", quota.cpu_milli)):
        moves: list[tuple[int, int]] = []
        for run in _ran(simulation.runs().values()):
            if jobs[run.key.job_id].project_id == project_id:
                ranks = run.ranks
                devices = sum(share.gpu_milli for rank in ranks for share in rank.devices)
                moves += _interval(run, devices if what == "gpu" else sum(rank.cpu_milli for rank in ranks))
        if limit is not None and (worst := _peak(moves)) > limit:
            raise Broken(f"the project really had {worst} thousandths of {what}, its quota is {limit}")


def _check_bursts(simulation: Simulation, bursts: Sequence[journal.Record], attempts: dict[str, list[Attempt]]) -> None:
    """What went to a rented cluster was told, and each time the day's budget had room for it to its time limit.

    What ended sooner counts as it was, so the estimates of a day may add up to more than its budget; what really ran
    does not, but for what was lost and not yet known to be.
    """
    told = {AttemptKey(record.subject, record.payload["attempt"]) for record in bursts}
    went = {one.key: one for each in attempts.values() for one in each if one.cluster == RENTED}
    _none("work was rented for and it was not told, or not rented for and told", told ^ went.keys())
    _none("a budget was overdrawn", [one for one in bursts if Decimal(one.payload["budget_left"]) < 0])
    if not bursts:
        return
    ran_s = sum(
        (run.finished_at - run.started_at).total_seconds() * sum(len(rank.devices) for rank in run.ranks)
        for key, run in simulation.runs().items()
        if key in went and run.started_at is not None and run.finished_at is not None
    )
    most = (
        Decimal(bursts[0].payload["budget_per_day"]) + RENT_PER_DEVICE_HOUR * Decimal(len(went) * LOST_AFTER_S) / 1800
    )
    if RENT_PER_DEVICE_HOUR * Decimal(ran_s) / 3600 > most:
        raise Broken(f"{ran_s:.0f} device-seconds were rented, for more than the budget")


def _ran(runs: Iterable[Run]) -> list[Run]:
    return [run for run in runs if run.started is not None and run.finished is not None]


def _interval(run: Run, amount: int) -> list[tuple[int, int]]:
    assert run.started is not None
    assert run.finished is not None
    return [(run.started, amount), (run.finished, -amount)] if run.started < run.finished else []


def _peak(moves: list[tuple[int, int]]) -> int:
    held = worst = 0
    for _, amount in sorted(moves):  # at one instant, what ends comes before what begins
        held += amount
        worst = max(worst, held)
    return worst


# -- jobs --------------------------------------------------------------------------------------------------------------


def _check_jobs(
    simulation: Simulation, jobs: dict[str, Job], attempts: dict[str, list[Attempt]], ends: Counter[str]
) -> None:
    wanted = {one.job_id: one for one in simulation.wanted if one.job_id is not None}
    _none("a job was lost", wanted.keys() - jobs.keys())
    names = Counter(job.name for job in jobs.values())
    _none("a job was taken twice", [name for name, count in names.items() if count > 1])
    _none("a job that nobody wanted", jobs.keys() - wanted.keys())
    known = {attempt.key for of_job in attempts.values() for attempt in of_job}
    _none("the engine ran what was never written down", simulation.runs().keys() - known)
    runs = simulation.runs()
    for job in jobs.values():
        if ends[job.id] != 1:
            raise Broken(f"{_told(job)} has {ends[job.id]} ends")
        _check_job(runs, job, attempts[job.id], cancelled=wanted[job.id].cancelled)


def _check_stops(jobs: dict[str, Job], attempts: dict[str, list[Attempt]], asked: Counter[tuple[str, int]]) -> None:
    """Each stop that was asked for was told once, and none was told that was not; weights stay within their bands."""
    stopped = Counter((one.job_id, one.number) for each in attempts.values() for one in each if one.stop_reason)
    if stopped != asked:
        raise Broken(f"stops that were asked for and told differ: {(stopped - asked) + (asked - stopped)}")
    for job in jobs.values():
        low, high = WEIGHT_BANDS[job.spec.job_class]
        if not low <= job.live_weight_milli <= high:
            raise Broken(f"{_told(job)} has the weight {job.live_weight_milli}, which is not of its class")
        for one in attempts[job.id]:
            why = one.stop_reason
            if why in set(StopWhy) - {StopWhy.IDLE} and Cause.PREEMPTION not in job.spec.retry.on:
                raise Broken(f"{_told(job)}: attempt {one.number} was stopped as {why}, and is not run again")


def _check_job(runs: Mapping[AttemptKey, Run], job: Job, attempts: Sequence[Attempt], *, cancelled: bool) -> None:
    if [one.number for one in attempts] != list(range(1, job.attempt + 1)):
        raise Broken(f"{_told(job)} has the attempts {[one.number for one in attempts]}")
    if job.cancel_at is not None and not cancelled:
        raise Broken(f"{_told(job)} was cancelled by nobody")
    counted = 0
    for attempt in attempts:
        is_last = attempt.number == job.attempt
        run = runs.get(attempt.key)
        _check_attempt(job, attempt, run, is_last=is_last)
        if attempt.reason == str(End.NODE_REFUSED):  # planned anew whatever the policy says, and counted nowhere
            if (run is not None and run.started is not None) or (is_last and job.cancel_at is None):
                raise Broken(
                    f"{_told(job)}: attempt {attempt.number} was refused by its node and began, or was the last"
                )
            continue
        cause = _cause(attempt, run)
        # Cancelled in a pause between two attempts: the next one was already promised.
        was_retried = not is_last or (job.state is JobState.CANCELLED and attempt.state is not JobState.CANCELLED)
        if was_retried:
            if attempt.state is JobState.COMPLETED or not cause & set(job.spec.retry.on):
                raise Broken(f"{_told(job)}: attempt {attempt.number} {attempt.state} {attempt.reason} was retried")
            counted += attempt.state is not JobState.PREEMPTED
        elif job.cancel_at is None and attempt.state is not JobState.COMPLETED and len(cause) == 1:
            (one,) = cause
            room = one is Cause.PREEMPTION or counted < job.spec.retry.limit
            if one in job.spec.retry.on and room:
                raise Broken(f"{_told(job)}: attempt {attempt.number} {attempt.state} {attempt.reason} was not retried")
    if counted > job.spec.retry.limit or counted != job.retries:
        raise Broken(f"{_told(job)} was retried {counted} times, says {job.retries}, allowed {job.spec.retry.limit}")
    if attempts:
        last = attempts[-1]
        same = (last.state, last.exit_code, last.signal) == (job.state, job.exit_code, job.signal)
        if not same and job.state is not JobState.CANCELLED:
            raise Broken(f"{_told(job)} ended otherwise than its last attempt {last.state}")
    elif job.state is not JobState.CANCELLED:
        raise Broken(f"{_told(job)} ended and never had an attempt")


def _check_attempt(job: Job, attempt: Attempt, run: Run | None, *, is_last: bool) -> None:
    about = f"{_told(job)}: attempt {attempt.number} {attempt.state} {attempt.reason}"
    is_cancelled = is_last and job.cancel_at is not None
    if run is None or run.end is None:
        if run is not None and run.started is not None:
            raise Broken(f"{about}: it really began and has no end")
        allowed = {JobState.PREEMPTED, JobState.FAILED} | ({JobState.CANCELLED} if is_cancelled else set())
        if attempt.state not in allowed:
            raise Broken(f"{about}: it never began")
        return
    really = f"really {run.end} exit {run.exit_code} signal {run.signal}"
    if (attempt.state is JobState.COMPLETED) != (run.end is End.EXITED and run.exit_code == 0):
        raise Broken(f"{about}: {really}")
    if (attempt.exit_code, attempt.signal) != (run.exit_code, run.signal):
        raise Broken(f"{about}: it says exit {attempt.exit_code} signal {attempt.signal}, {really}")
    expected = {_state(run)} | ({JobState.CANCELLED} if is_cancelled else set())
    if attempt.state not in expected:
        raise Broken(f"{about}: {really}")
    if attempt.state is JobState.CANCELLED and not is_cancelled:
        raise Broken(f"{about}: nobody asked for that")
    least = job.spec.nodes_min or job.spec.nodes
    if not least <= len(attempt.ranks) <= job.spec.nodes or attempt.ranks != run.ranks:
        raise Broken(f"{about}: it ran with other places than it was given")


def _state(run: Run) -> JobState:
    if run.end is End.EXITED:
        return JobState.COMPLETED if run.exit_code == 0 else JobState.FAILED
    assert run.end is not None
    return STATES[run.end]


def _cause(attempt: Attempt, run: Run | None) -> set[Cause]:
    """Return what an end may count as."""
    if attempt.state is JobState.PREEMPTED:
        return {Cause.PREEMPTION}
    if run is None or run.end is None:
        return {Cause.INFRASTRUCTURE, Cause.USER, Cause.UNKNOWN}
    if run.end in CAUSES:
        return {CAUSES[run.end]}
    if run.end is End.SIGNALED and run.signal == 9:
        return {Cause.INFRASTRUCTURE}
    return {Cause.USER, Cause.UNKNOWN, Cause.INFRASTRUCTURE}


def _told(job: Job) -> str:
    return f"{job.name} ({job.id}) {job.state} {job.reason}"


# -- the ledger --------------------------------------------------------------------------------------------------------


def _check_ledger(simulation: Simulation, ledger: Sequence[Allocation], attempts: dict[str, list[Attempt]]) -> None:
    """Each attempt held what it was given, all the time that it really ran, and not much longer."""
    rows, runs = defaultdict[AttemptKey, list[Allocation]](list), simulation.runs()
    for row in ledger:
        rows[row.share.key].append(row)
    known = {attempt.key: attempt for of_job in attempts.values() for attempt in of_job}
    _none("the ledger knows other attempts", rows.keys() ^ known.keys())
    slack = timedelta(seconds=2 * simulation.steps_of_clock) + _EXACT
    longest = slack + timedelta(seconds=LOST_AFTER_S + 10)
    for key, held in rows.items():
        expected = sum(1 + len(rank.devices) for rank in known[key].ranks)
        if len(held) != expected or any(row.ended_at is None for row in held):
            raise Broken(f"{key} has {len(held)} rows in the ledger, {expected} are right, all of them closed")
        run = runs.get(key)
        if run is None or run.started_at is None or run.finished_at is None:
            continue
        for row in held:
            assert row.ended_at is not None
            if row.started_at > run.started_at + slack or row.ended_at < run.finished_at - slack:
                raise Broken(
                    f"{key} held {row.started_at} to {row.ended_at}, ran {run.started_at} to {run.finished_at}"
                )
            if row.ended_at > run.finished_at + longest:
                raise Broken(f"{key} held until {row.ended_at}, it was gone at {run.finished_at}")


def _none(what: str, found: Any) -> None:
    listed = list(found)
    if listed:
        raise Broken(f"{what}: {', '.join(str(one) for one in listed[:5])} ({len(listed)} in all)")
