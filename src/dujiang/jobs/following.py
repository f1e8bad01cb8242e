"""What the end of a job lets happen to others: those that waited for it, and the next task of its array.

It happens in the transaction of the end itself, so nothing waits for what is over, whenever the process is killed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from dujiang.jobs import group_store, store
from dujiang.jobs.domain import (
    Answer,
    Array,
    Edge,
    Held,
    Job,
    Standing,
    answer,
    await_others,
    await_turn,
    ended_event,
    free,
    give_up,
    standing_of,
)
from dujiang.kit.db import Tx


async def follow(tx: Tx, ended: Sequence[Job]) -> bool:
    """Let go on what waited for these jobs; say whether there is something new to look at.

    A job that waited in vain ends too, and what waited for that one follows, level by level.

    Args:
        tx: the transaction of the ends.
        ended: with their rows written; and locked by `group_store.lock_jobs`.
    """
    freed = False
    touched: set[str] = set()
    level = list(ended)
    while level:
        touched |= {job.array_id for job in level if job.array_id is not None}
        level, released = await _next_level(tx, level)
        freed |= bool(released)
        touched |= {job.array_id for job in released if job.array_id is not None}
    for array_id in sorted(touched):
        freed |= await take_turns(tx, array_id)
    return freed


async def take_turns(tx: Tx, array_id: str) -> bool:
    """Let as many tasks of an array go on as its limit has room for; say whether any did."""
    array = (await group_store.read_arrays(tx, [array_id], lock=True)).get(array_id)
    if array is None or array.at_once is None:
        return False
    room = array.at_once - await group_store.at_work(tx, array_id)
    if room <= 0:
        return False
    turn = await store.lock_jobs(tx, await group_store.next_tasks(tx, array_id, room))
    fit = [job for job in turn.values() if job.held is Held.ARRAY_LIMIT and not job.has_ended]
    await store.update_jobs(tx, [free(job, now=tx.now) for job in fit])
    return bool(fit)


async def _next_level(tx: Tx, ended: Sequence[Job]) -> tuple[list[Job], list[Job]]:
    """Close the dependencies on jobs that have ended; return the jobs that ended thereby, and those let go on."""
    over = {job.id: standing_of(job) for job in ended}
    arrays = await group_store.read_arrays(tx, {job.array_id for job in ended if job.array_id is not None})
    for array in arrays.values():
        if (standing := await group_store.standing_of_array(tx, array)).has_ended:
            over[array.id] = standing
    edges = await group_store.close_edges(tx, over)
    if not edges:
        return [], []
    jobs = await group_store.lock_jobs(tx, {edge.job_id for edge in edges})
    waiting = {job_id: job for job_id, job in jobs.items() if job.held is Held.DEPENDENCY and not job.has_ended}
    given_up = _given_up(tx, waiting, edges, over)
    rest = [job for job_id, job in waiting.items() if job_id not in given_up]
    left = await group_store.open_edges(tx, [job.id for job in rest])
    still = await _still(tx, [job for job in rest if job.id in left], left)
    released = [job for job in rest if job.id not in left]
    limits = await _limits(tx, released)
    gone = list(given_up.values())
    go_on = [_released(job, limits.get(job.array_id or ""), tx) for job in released]
    await store.update_jobs(tx, [*gone, *still, *go_on])
    await group_store.drop_edges(tx, given_up)
    await store.drop_secrets(tx, [job.id for job in gone if job.spec.secrets])
    tx.emit(*(ended_event(job) for job in gone))
    return gone, released


def _given_up(tx: Tx, waiting: dict[str, Job], edges: Iterable[Edge], over: dict[str, Standing]) -> dict[str, Job]:
    found: dict[str, Job] = {}
    for edge in edges:
        job = waiting.get(edge.job_id)
        if job is not None and job.id not in found and answer(edge.when, over[edge.on_id]) is Answer.NEVER:
            found[job.id] = give_up(job, edge.when, over[edge.on_id], now=tx.now)
    return found


async def _still(tx: Tx, jobs: Sequence[Job], left: dict[str, tuple[Edge, int]]) -> list[Job]:
    """Return jobs that wait for others yet, with the next of those named."""
    if not jobs:
        return []
    on = await group_store.standings(tx, {left[job.id][0].on_id for job in jobs})
    return [
        await_others(job, edge.when, on[edge.on_id], others=others, now=tx.now)
        for job in jobs
        for edge, others in [left[job.id]]
    ]


async def _limits(tx: Tx, released: Sequence[Job]) -> dict[str, Array]:
    ids = {job.array_id for job in released if job.array_id is not None}
    arrays = await group_store.read_arrays(tx, ids) if ids else {}
    return {array.id: array for array in arrays.values() if array.at_once is not None}


def _released(job: Job, limit: Array | None, tx: Tx) -> Job:
    """Return a job that waits for no other any more; a task of an array with a limit waits for its turn."""
    if limit is None or limit.at_once is None:
        return free(job, now=tx.now)
    return await_turn(job, limit.at_once, now=tx.now)
