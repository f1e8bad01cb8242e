"""From what a user wrote to what the scheduler is asked for and what the engine is told to run."""

from __future__ import annotations

from dataclasses import replace

from dujiang.engines.contract import NEEDS_IMAGE, AttemptKey, Checkpointing, Input, Isolation, Launch
from dujiang.jobs.domain.distributed import Site, spread
from dujiang.jobs.domain.elastic import elastic_bounds, ranks_wanted
from dujiang.jobs.domain.job import Attempt, Job
from dujiang.jobs.spec import Burst, Cause, JobSpec, Kept, Kind, Placement, Resources
from dujiang.scheduling.domain import Ask, Constraints, Level, Request, TaskClass

PROJECT_LABEL = "project_id"
ANY_SITE = Site()


def ask_of(spec: JobSpec) -> Ask:
    """Return what each rank of a job would rather get.

    Raises:
        BadAsk: an amount that nothing could give.
    """
    return _ask(spec.resources)


def _ask(wanted: Resources) -> Ask:
    gpu = wanted.gpu
    return Ask(
        gpu_milli=wanted.gpu_milli,
        gpu_memory_bytes=(gpu.memory_bytes or 0) if gpu else 0,
        vendor=(gpu.vendor or "") if gpu else "",
        model=(gpu.model or "") if gpu else "",
        cpu_milli=wanted.cpu_milli,
        memory_bytes=wanted.memory_bytes,
        disk_bytes=wanted.disk_bytes,
    )


def where_of(placement: Placement) -> Constraints:
    """Return what a job demands of its place, in the scheduler's words."""
    return Constraints(
        cluster=placement.cluster or "",
        selector=tuple(placement.selector.items()),
        tolerations=placement.tolerations,
        within=Level(placement.within.value) if placement.within else None,
        is_within_required=placement.required,
        spread=Level(placement.spread.value) if placement.spread else None,
        apart=placement.apart or "",
        isolation=_ISOLATION[placement.isolation] if placement.isolation else None,
    )


def _in_image(where: Constraints) -> Constraints:
    """Return the same for a job with a container image: only where those are run, also where nothing else is."""
    return replace(where, image=True, tolerations=(*where.tolerations, NEEDS_IMAGE))


_ISOLATION = {
    Kept.COUNTED: Isolation.COUNTED_ONLY,
    Kept.MEMORY: Isolation.MEMORY_ONLY,
    Kept.ENFORCED: Isolation.ENFORCED,
}


def request_of(job: Job, *, expected_s: float | None = None) -> Request:
    """Return the job as the scheduler sees it, with how long it is expected to run.

    Raises:
        BadAsk, WeightOutsideBand: the specification asks for what cannot be.
    """
    spec, point = job.spec, job.spec.checkpoint
    runs_at_most_s = None if spec.time_limit_s is None else spec.time_limit_s + spec.grace_s
    return Request(
        job_id=job.id,
        project_id=job.project_id,
        ask=ask_of(spec),
        submitted_at=job.created_at,
        ranks=ranks_wanted(job),
        ranks_min=bounds[0] if (bounds := elastic_bounds(job)) else None,
        task_class=TaskClass(spec.job_class.value),
        weight=job.live_weight_milli / 1000,
        not_before=job.not_before,
        runs_at_most_s=runs_at_most_s,
        avoid=job.avoid,
        where=_in_image(where_of(spec.placement)) if spec.image is not None else where_of(spec.placement),
        alternatives=tuple(_ask(one) for one in spec.resources.alternatives),
        queue=spec.queue or "",
        deadline=spec.deadline.moment(job.created_at) if spec.deadline else None,
        expected_s=expected_s,
        may_burst=None if spec.placement.burst is None else spec.placement.burst is Burst.ALLOWED,
        may_restart=point is not None and Cause.INFRASTRUCTURE in spec.retry.on,
        saves_every_s=None if point is None else point.interval_s,
    )


def array_env(job: Job) -> dict[str, str]:
    """Return how the program of a task finds out which one it is; nothing for a single job."""
    if job.array_id is None or job.spec.array is None:
        return {}
    return {
        "DUJIANG_ARRAY_ID": job.array_id,
        "DUJIANG_ARRAY_INDEX": str(job.array_index),
        "DUJIANG_ARRAY_SIZE": str(job.spec.array.size),
    }


def launch_of(job: Job, attempt: Attempt, secrets: dict[str, str], *, project: str, site: Site = ANY_SITE) -> Launch:
    """Return what the engine needs to run an attempt.

    Args:
        job: whose attempt it is.
        attempt: with its place.
        secrets: values by name.
        project: name of the project, for people.
        site: where it runs.
    """
    spec, point = job.spec, job.spec.checkpoint
    checkpoint = None
    if point is not None:
        checkpoint = Checkpointing(job.checkpoint_dir, point.signal_number, attempt.resume_from)
    made = spread(spec.distributed, spec.run, attempt.ranks, site, ports=spec.ports)
    return Launch(
        key=AttemptKey(job.id, attempt.number),
        name=job.name,
        project=project,
        run=made.run,
        ranks=attempt.ranks,
        setup=spec.setup,
        env={**made.env, **spec.param_env, **spec.env, **array_env(job)},
        secrets=secrets,
        image=spec.image,
        workdir=spec.workdir,
        checkpoint=checkpoint,
        time_limit_s=spec.time_limit_s,
        grace_s=spec.grace_s,
        ports=spec.ports + made.ports,
        inputs=tuple(Input(data.name, data.path) for data in spec.inputs),
        record_environment=spec.outputs.model is not None,
        is_service=spec.kind is Kind.SERVICE,
        shares_output=made.shares_output,
        labels={**job.labels, PROJECT_LABEL: job.project_id},
    )
