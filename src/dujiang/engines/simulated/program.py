"""What a virtual program does: told by the job, or drawn from the seed.

A job tells by comments in its text, which a real shell passes over: `#sim duration=90 exit=1`, for one rank
`#sim rank=2 signal=9`; a launch that is not made from a specification also by environment variables
(`DUJIANG_SIM_DURATION=90 DUJIANG_SIM_EXIT=1`; a specification takes no name that begins so). What the
environment does not tell is drawn; with a comment nothing is: `#sim` alone prints nothing and exits 0 at once.
The words:

| word | meaning |
|---|---|
| `duration` | seconds of work (`90`, `2h30m`), or `forever`, or `released` (until the world's `release`) |
| `exit`, `signal` | how it ends by itself |
| `memory` | how much it takes: above the rank's limit it ends out of memory |
| `start` | seconds from submission to the first process |
| `print` | all that it prints, instead of lines as of a training; `_` is a space |
| `saves`, `saved-exit` | on this signal it prints `saved` and exits with that code (0) |
| `stubborn` | `1`: only SIGKILL ends it |
| `use` | which part of its devices, or of its cores, it keeps busy (0.75) |
| `idle-after` | seconds after which it uses nothing any more |

A job with a checkpoint saves after every epoch: a later attempt does only what is left of its work.
"""

from __future__ import annotations

import hashlib
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from dujiang.engines.contract import EngineRefused, Launch
from dujiang.kit.errors import did_you_mean
from dujiang.kit.units import BadQuantity, parse_bytes, parse_duration_s

MARK: Final = "#sim"
ENVIRONMENT: Final = "DUJIANG_SIM_"
FOREVER: Final = math.inf
EPOCHS: Final = 40
"""Of every training, those of earlier attempts included."""
DRAWN_USE: Final = 0.75
_WORDS = (
    "duration",
    "exit",
    "signal",
    "memory",
    "start",
    "print",
    "saves",
    "saved-exit",
    "stubborn",
    "rank",
    "use",
    "idle-after",
)
_MEDIAN_S, _SPREAD, _LONGEST_S = 600.0, 1.1, 6 * 3600.0
_DRAWN_START_S = 0.2
_TERM, _KILL = 15, 9


@dataclass(frozen=True, slots=True)
class Program:
    """What one rank does, were it left alone."""

    duration_s: float = 0.0
    exit_code: int = 0
    signal: int | None = None
    """It dies of this instead of exiting."""
    out_of_memory: bool = False
    until_released: bool = False
    saves_on: int | None = None
    saved_exit: int = 0
    save_s: float = 0.0
    stubborn: bool = False
    printed: str | None = None
    """All that it prints at its start; None is lines as of a training."""
    done_before: int = 0
    """Epochs that earlier attempts saved."""
    use: float = DRAWN_USE
    """Which part of what it was given it keeps busy."""
    idle_after_s: float = FOREVER
    """From when on it uses nothing."""


@dataclass(frozen=True, slots=True)
class Script:
    """What a whole attempt does."""

    start_s: float
    """From submission to the first process."""
    ranks: tuple[Program, ...]
    setup_exit: int = 0
    speed: float = 1.0
    """Its durations are already divided by this."""


def script_of(launch: Launch, *, seed: int, speed: float = 1.0, done_before: int = 0) -> Script:
    """Return what an attempt does. The same seed and launch give the same, in whatever order attempts come.

    Args:
        launch: the attempt.
        seed: of the world.
        speed: drawn and told durations are divided by this; time limits and graces are not.
        done_before: epochs that earlier attempts of the job saved; counts only with a checkpoint.

    Raises:
        EngineRefused: the job's words cannot be read.
    """
    told = {
        name.removeprefix(ENVIRONMENT).lower().replace("_", "-"): value
        for name, value in launch.env.items()
        if name.startswith(ENVIRONMENT)
    }
    general, by_rank, is_told = _directives(launch.run)
    words = {**told, **general}
    done = done_before if launch.checkpoint else 0
    base = replace(Program(printed="") if is_told else _draw(launch, seed), done_before=done)
    _refuse_unknown(words)
    programs = tuple(
        _program({**words, **by_rank.get(rank.rank, {})}, base, rank.memory_bytes, speed) for rank in launch.ranks
    )
    setup, _, _ = _directives(launch.setup)
    start_s = _seconds(words["start"]) if "start" in words else 0.0 if is_told else _DRAWN_START_S
    return Script(start_s / speed, programs, _number("exit", setup.get("exit", "0")), speed)


def noise(seed: int, job_id: str) -> np.random.Generator:
    """Return the randomness of what a job prints, the same for all its attempts."""
    return _stream(seed, f"{job_id} output")


def _directives(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]], bool]:
    """Return the words for all ranks, those for single ranks, and whether there were any."""
    general: dict[str, str] = {}
    by_rank: dict[int, dict[str, str]] = {}
    found = False
    if MARK not in text:
        return general, by_rank, found
    for line in text.splitlines():
        if not line.startswith(MARK):
            continue
        found = True
        try:
            parts = shlex.split(line[len(MARK) :])
        except ValueError as error:
            raise EngineRefused(f'The line "{line[:80]}" has an open quotation mark: close it.') from error
        words = {name: value if equals else "1" for name, equals, value in (part.partition("=") for part in parts)}
        _refuse_unknown(words)
        rank = words.pop("rank", None)
        (general if rank is None else by_rank.setdefault(_number("rank", rank, 10**6), {})).update(words)
    return general, by_rank, found


def _refuse_unknown(words: Mapping[str, str]) -> None:
    for word in words:
        if word not in _WORDS:
            raise EngineRefused(
                f'"{word[:40]}" is no word of a simulated program.{did_you_mean(word, _WORDS)} '
                f"There are {', '.join(_WORDS)}."
            )


def _program(words: Mapping[str, str], base: Program, memory_bytes: int, speed: float) -> Program:
    duration = words.get("duration", "")
    if duration in ("forever", "released"):
        seconds = FOREVER
    else:
        left = 1 - base.done_before / EPOCHS
        seconds = (_seconds(duration) if duration else base.duration_s) * left / speed
    told_end = "exit" in words or "signal" in words
    grows = "memory" in words and _bytes(words["memory"]) > memory_bytes > 0
    return Program(
        duration_s=seconds,
        exit_code=_number("exit", words.get("exit", "0" if told_end else str(base.exit_code))),
        signal=_number("signal", words["signal"], 64) if "signal" in words else None if told_end else base.signal,
        out_of_memory=grows or (base.out_of_memory and not told_end and "memory" not in words),
        until_released=duration == "released",
        saves_on=_number("saves", words["saves"], 64) if "saves" in words else base.saves_on,
        saved_exit=_number("saved-exit", words.get("saved-exit", "0")),
        save_s=base.save_s,
        stubborn=words["stubborn"] == "1" if "stubborn" in words else base.stubborn,
        printed=words["print"].replace("_", " ") + "\n" if "print" in words else base.printed,
        done_before=base.done_before,
        use=_part("use", words["use"]) if "use" in words else base.use,
        idle_after_s=_seconds(words["idle-after"]) / speed if "idle-after" in words else base.idle_after_s,
    )


def _draw(launch: Launch, seed: int) -> Program:
    """Draw what a job does that says nothing: how much work is the job's, how an attempt ends is the attempt's."""
    work = _stream(seed, launch.key.job_id)
    total_s = min(float(work.lognormal(math.log(_MEDIAN_S), _SPREAD)), _LONGEST_S)
    chance = _stream(seed, str(launch.key))
    luck, part, save_s, stubborn = (float(drawn) for drawn in chance.random(4))
    common = Program(
        duration_s=FOREVER if launch.ports else total_s,
        saves_on=(launch.checkpoint.signal or _TERM) if launch.checkpoint else None,
        save_s=save_s,
        stubborn=stubborn < 0.03,
    )
    if launch.ports or luck < 0.88:
        return common
    failing = replace(common, duration_s=total_s * (0.05 + 0.9 * part), stubborn=False)
    if luck < 0.94:
        return replace(failing, exit_code=1)
    return replace(failing, out_of_memory=True) if luck < 0.97 else replace(failing, signal=_KILL)


def _stream(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])


def _seconds(text: str) -> float:
    try:
        return parse_duration_s(text)
    except BadQuantity as error:
        raise EngineRefused(error.sentence) from error


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text)
    except BadQuantity as error:
        raise EngineRefused(error.sentence) from error


def _part(word: str, text: str) -> float:
    try:
        part = float(text)
    except ValueError:
        part = math.nan
    if not 0 <= part <= 1:
        raise EngineRefused(f'"{word}={text[:40]}" cannot be: write a number from 0 to 1.')
    return part


def _number(word: str, text: str, most: int = 255) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        raise EngineRefused(f'"{word}={text[:40]}" cannot be: write a whole number from 0 to {most}.')
    return int(text)
