"""Figures of event files: read through the engine while they grow, and to their end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dujiang.engines.contract import AttemptKey, EngineUnavailable
from dujiang.engines.local.engine import LocalEngine
from dujiang.engines.outputs import OutputFile
from dujiang.engines.simulated import SimulatedEngine
from tests.jobs.test_loops import _figures, a_file
from tests.platforms import SIM, Scene
from tests.telemetry.test_eventfiles import _event, _frame


class Leaving(SimulatedEngine):
    """Gives as files what lies in a folder, as the local engine does."""

    folder: Path
    is_away = True

    async def outputs(self, key: AttemptKey, *, prefix: str = "", most: int = 64) -> Sequence[OutputFile]:
        """List the folder, once it is not away any more."""
        if self.is_away:
            raise EngineUnavailable("the folder is not mounted")
        return await LocalEngine(self.folder, clock=self.world.clock).outputs(key, prefix=prefix, most=most)

    async def output(self, key: AttemptKey, path: str, *, offset: int = 0, most_bytes: int) -> AsyncIterator[bytes]:
        """Read from the folder."""
        engine = LocalEngine(self.folder, clock=self.world.clock)
        async for piece in engine.output(key, path, offset=offset, most_bytes=most_bytes):
            yield piece


async def test_event_files_are_read_to_their_end_also_when_that_takes_several_ticks(
    scene: Scene, tmp_path: Path
) -> None:
    engine = scene.platform.world.clusters[SIM] = Leaving(scene.cluster)  # type: ignore[index]
    engine.folder = tmp_path
    job = await scene.submit("#sim duration=5")
    output = tmp_path / "attempts" / job.id / "1" / "output"
    long, last = _frame(b"\xff" * 500_000), _frame(_event("loss", 7, 0.5).SerializeToString())  # type: ignore[attr-defined]
    a_file(output / "events.out.tfevents.1", long * 12 + last + b"cut off")
    a_file(output / "deep" / "events.out.tfevents.2", _frame(_event("acc", 8, 0.25).SerializeToString()))  # type: ignore[attr-defined]
    (output / "events.out.tfevents.3").symlink_to(tmp_path)
    await scene.until(job.id)
    assert not (await scene.attempts(job.id))[0].figures_complete
    engine.is_away = False
    for _ in range(10):
        if (await scene.attempts(job.id))[0].figures_complete:
            break
        await scene.turn()
    assert await _figures(scene, job.id) == {"loss": (7, 0.5), "acc": (8, 0.25)}
    assert (await scene.attempts(job.id))[0].figures_complete
