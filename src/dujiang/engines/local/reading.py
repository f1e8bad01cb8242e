"""Turns an attempt's records into what the contract calls an observation: pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dujiang.engines.contract import AttemptKey, End, Evidence, Observation, Phase
from dujiang.kit.clock import from_micros


def observation(
    key: AttemptKey,
    phase: Phase,
    launch: Mapping[str, Any],
    started: Mapping[str, Any],
    end: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
    *,
    output_dir: str,
) -> Observation:
    """Return the observation; `end` and `facts` count only for an attempt that has ended."""
    ranks = launch.get("ranks") or [{}]
    seen = Observation(
        key=key,
        phase=phase,
        node=ranks[0].get("node", ""),
        started_at=from_micros(started["at"]) if started else None,
        ports=tuple(started.get("ports", ())),
        limits_by=launch.get("limits", {}).get("by", ""),
        workdir=launch.get("workdir", ""),
        output_dir=output_dir,
    )
    if end is None or phase is not Phase.ENDED:
        return seen
    return Observation(
        key=key,
        phase=Phase.ENDED,
        node=seen.node,
        started_at=seen.started_at,
        finished_at=from_micros(end["at"]),
        end=End(end["end"]),
        exit_code=end["exit_code"],
        signal=end["signal"],
        rank=end["rank"],
        evidence=tuple(
            Evidence(source, line, from_micros(at) if at is not None else None) for source, line, at in end["evidence"]
        ),
        ports=seen.ports,
        limits_by=seen.limits_by,
        workdir=seen.workdir,
        output_dir=output_dir,
        facts={**end["facts"], **facts},
    )
