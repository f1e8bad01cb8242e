"""What queues hold by the live rows of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from dujiang.engines.contract import AttemptKey
from dujiang.pool.domain import Allocation
from dujiang.scheduling.domain.fleet import Flavor
from dujiang.scheduling.domain.queue_usage import Usage
from dujiang.scheduling.domain.queues import NONE4, Amounts4, QueueTree, flavor_of


def usage_of_ledger(
    tree: QueueTree, rows: Iterable[Allocation], clusters: Mapping[str, str], named: Mapping[str, str]
) -> Usage:
    """Return what each queue holds: of each attempt everything counts as its device does.

    Args:
        tree: the queues.
        rows: of the ledger; those that have ended are passed over.
        clusters: names by id.
        named: the queues that jobs name, by job, where they do.
    """
    usage = Usage(tree)
    if not tree:
        return usage
    known: dict[tuple[str, str, str], str] = {}
    flavors: dict[AttemptKey, str] = {}
    held: dict[AttemptKey, Amounts4] = {}
    queues: dict[AttemptKey, str] = {}
    for row in rows:
        share = row.share
        if row.ended_at is not None:
            continue
        a = held.get(share.key, NONE4)
        held[share.key] = (
            a[0] + share.gpu_milli, a[1] + share.device_memory_bytes, a[2] + share.cpu_milli, a[3] + share.memory_bytes,
        )  # fmt: skip
        queues[share.key] = tree.queue_of(share.project_id, named.get(share.key.job_id, ""))
        cluster = clusters.get(share.cluster_id, "")
        if share.device_id is not None:
            kind = share.vendor, share.model, cluster
            if kind not in known:
                known[kind] = flavor_of(tree.flavors, Flavor(0, 0, share.vendor, share.model, 0, slice(0)), cluster)
            flavors[share.key] = known[kind]
        else:
            flavors.setdefault(share.key, flavor_of(tree.flavors, None, cluster))
    for key, amounts in held.items():
        usage.take(queues[key], flavors[key], amounts)
    return usage
