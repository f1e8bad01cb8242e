"""Facts of attempts for the tests of health, short to write."""

from __future__ import annotations

from dujiang.engines.contract import AttemptKey, End, Evidence, Observation, Phase
from dujiang.jobs.diagnosis import AttemptFacts

KEY = AttemptKey("job_1", 1)


def facts(
    *lines: str, end: End = End.EXITED, code: int | None = 1, signal: int | None = None, rank: int | None = 0,
    evidence: tuple[tuple[str, str], ...] = (), kernel: tuple[str, ...] = (), others: dict[int, str] | None = None,
    stop_reason: str = "", memory_bytes: int | None = None, time_limit_s: float | None = None,
) -> AttemptFacts:  # fmt: skip
    """Return the facts of an attempt whose rank 0 printed these lines; a signal takes the place of the exit code."""
    seen = Observation(
        KEY, Phase.ENDED, end=End.SIGNALED if signal is not None and end is End.EXITED else end,
        exit_code=None if signal is not None or end is not End.EXITED else code, signal=signal, rank=rank,
        evidence=tuple(Evidence(source, line) for source, line in evidence),
    )  # fmt: skip
    output = {0: "\n".join(lines), **(others or {})} if lines or others else {}
    return AttemptFacts(
        seen,
        output=output,
        kernel=kernel,
        stop_reason=stop_reason,
        memory_bytes=memory_bytes,
        time_limit_s=time_limit_s,
    )


TRACE = (
    "Traceback (most recent call last):",
    '  File "/home/u/train.py", line 12, in main',
    "    fit(model)",
    '  File "/opt/venv/lib/python3.11/site-packages/framework/fit.py", line 88, in fit',
    "    step()",
)
