"""What virtual programs print: a function of the seed and the time, so nothing of it is stored.

What was printed at a moment is the beginning of what is printed at any later one.
"""

from __future__ import annotations

import math

from dujiang.engines.contract import Launch
from dujiang.engines.simulated.program import EPOCHS, FOREVER, Program, noise

TAG = "[simulated] "
"""Begins every line that is not the job's own `print`."""
_STEPS_PER_EPOCH = 50
_SERVICE_EVERY_S = 10.0
_MOST_SERVICE_LINES = 2000


def printed(
    launch: Launch, program: Program, rank: int, *, seed: int, ran_s: float, finished: bool, saved: bool
) -> bytes:
    """Return what a rank has printed.

    Args:
        launch: the attempt.
        program: what the rank does.
        rank: its number.
        seed: of the world.
        ran_s: how long it ran until now, or until its end.
        finished: it ended as it does when left alone.
        saved: it saved itself on a signal.
    """
    if program.printed is not None:
        return (program.printed + ("saved\n" if saved else "")).encode()
    lines = [_head(launch, rank)]
    if program.duration_s == FOREVER:
        ticks = min(int(ran_s / _SERVICE_EVERY_S), _MOST_SERVICE_LINES)
        lines += [f"still serving, {tick * _SERVICE_EVERY_S:.0f} s" for tick in range(1, ticks + 1)]
    elif rank == 0:
        lines += _training(launch, program, seed, ran_s)
    if saved:
        lines.append("saved")
    if finished:
        lines += _farewell(program)
    return "".join(f"{TAG}{line}\n" for line in lines).encode()


def epochs_done(program: Program, ran_s: float) -> int:
    """Return how many epochs are done in all, those of earlier attempts included."""
    if program.duration_s <= 0 or program.duration_s == FOREVER:
        return program.done_before
    left = EPOCHS - program.done_before
    return program.done_before + min(int(ran_s / program.duration_s * left), left)


def saved_after_s(program: Program, ran_s: float) -> float | None:
    """Return after how long of its run a program last saved itself; None while it has not."""
    done = epochs_done(program, ran_s) - program.done_before
    return done * program.duration_s / (EPOCHS - program.done_before) if done > 0 else None


def _head(launch: Launch, rank: int) -> str:
    place = launch.ranks[rank]
    devices = ",".join(str(share.index) for share in place.devices) or "none"
    return f"{launch.name}: rank {rank} of {len(launch.ranks)} on {place.node}, devices {devices}"


def _training(launch: Launch, program: Program, seed: int, ran_s: float) -> list[str]:
    done = epochs_done(program, ran_s)
    wobble = noise(seed, launch.key.job_id).normal(0, 0.01, EPOCHS + 1)
    return [
        f"epoch={epoch} step={epoch * _STEPS_PER_EPOCH} loss={2.3 * math.exp(-epoch / 9) + 0.05 + abs(off):.4f} "
        f"accuracy={min(0.97 * (1 - math.exp(-epoch / 7)) + off / 2, 0.999):.4f}"
        for epoch, off in enumerate(wobble[: done + 1])
        if epoch > program.done_before
    ]


def _farewell(program: Program) -> list[str]:
    if program.signal or program.out_of_memory:
        return []
    if program.exit_code == 0:
        return ["done"]
    return [
        "Traceback (most recent call last):",
        '  File "train.py", line 42, in <module>',
        "ValueError: simulated failure of the program",
    ]
