"""A local engine that answers JSON lines on its standard input: what tests of NVML ask from another process.

python -m tests.engines.local.engine_process HOME SETTINGS
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dujiang.engines.contract import AttemptKey, DeviceShare, Launch, Observation, Phase, RankPlacement
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.local.settings import LocalSettings
from dujiang.kit.clock import SystemClock
from dujiang.kit.errors import DujiangError

_WITHIN_S = 60.0


async def main() -> None:
    """Answer until the input ends, then stop what runs."""
    pipe = json.loads(sys.argv[2])["mps_pipe_dir"]
    local = LocalSettings(node_name="here", reserve_memory_bytes=0, mps_pipe_dir=Path(pipe) if pipe else None)
    engine = LocalEngine(Path(sys.argv[1]), clock=SystemClock(), settings=local)
    while line := await asyncio.to_thread(sys.stdin.readline):
        try:
            answer = await _answer(engine, json.loads(line))
        except DujiangError as error:
            answer = {"error": error.code, "sentence": error.sentence}
        sys.stdout.write(json.dumps(answer, default=str) + "\n")
        sys.stdout.flush()
    for key in await engine.attempts():
        await engine.cancel(key, grace_s=0.0)
        await _ended(engine, key)
    assert not await engine.strays()
    await engine.close()


async def _answer(engine: LocalEngine, question: dict[str, Any]) -> Any:
    key = AttemptKey(question.get("job", "job_a"), 1)
    match question["ask"]:
        case "inventory":
            (node,) = await engine.inventory()
            return asdict(node)
        case "capabilities":
            return asdict(await engine.capabilities())
        case "submit":
            await engine.submit(_launch(key, question["text"], question["ranks"]))
            return None
        case "said":
            async with asyncio.timeout(_WITHIN_S):
                while not (text := await _printed(engine, key, 0)).endswith("\n"):
                    await engine.changed(0.05)
            return text
        case "usage":
            await engine.inventory()  # as the platform does every few seconds; it opens the driver
            used = (await engine.usage([key])).get(key)
            return None if used is None else {"devices": used.devices}
        case "ended":
            seen = await _ended(engine, key)
            printed = [await _printed(engine, key, rank) for rank in range(question["ranks"])]
            return {"end": seen.end, "exit_code": seen.exit_code, "printed": printed}
        case other:
            raise AssertionError(other)


def _launch(key: AttemptKey, text: str, ranks: list[list[dict[str, Any]]]) -> Launch:
    placed = tuple(
        RankPlacement(nth, "here", 500, 2 << 30, devices=tuple(DeviceShare(**each) for each in devices))
        for nth, devices in enumerate(ranks)
    )
    return Launch(key=key, name="a-job", project="a-project", run=text, ranks=placed, grace_s=5.0)


async def _ended(engine: LocalEngine, key: AttemptKey) -> Observation:
    async with asyncio.timeout(_WITHIN_S):
        while True:
            seen = (await engine.observe([key])).get(key)
            if seen is not None and seen.phase is Phase.ENDED:
                return seen
            await engine.changed(1.0)


async def _printed(engine: LocalEngine, key: AttemptKey, rank: int) -> str:
    return b"".join([chunk.data async for chunk in engine.logs(key, rank=rank)]).decode()


if __name__ == "__main__":
    asyncio.run(main())
