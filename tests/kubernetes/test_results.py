"""Where output folders of Pods are to be read, and what is said where they are not; no cluster is needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.engines.contract import AttemptKey
from dujiang.engines.kubernetes.results import Results
from dujiang.engines.kubernetes.settings import KubernetesSettings
from dujiang.engines.outputs import OutputMissing, OutputOutside, OutputUnreachable

KEY = AttemptKey("job_a", 1)


class Only(Results):
    """That part of the engine alone."""

    def __init__(self, work_dir: str) -> None:
        volume = {"hostPath": {"path": work_dir}} if work_dir else {}
        self._settings = KubernetesSettings(work_dir=work_dir, work_volume=volume)


@pytest.mark.parametrize(("work_dir", "told"), [("", "set `work_dir`"), ("/no/such/folder", "mount its `work_volume`")])
async def test_what_is_not_seen_here_says_what_to_set(work_dir: str, told: str) -> None:
    with pytest.raises(OutputUnreachable, match=told) as refused:
        await Only(work_dir).outputs(KEY)
    assert "/no/such" not in refused.value.sentence  # a tenant reads it


async def test_the_shared_folder_is_read_also_through_a_link_of_the_administrators(tmp_path: Path) -> None:
    output = tmp_path / "real" / "attempts" / "job_a" / "1" / "output"
    output.mkdir(parents=True)
    (output / "model.onnx").write_bytes(b"model")
    (tmp_path / "shared").symlink_to("real")
    engine = Only(str(tmp_path / "shared"))
    assert [one.path for one in await engine.outputs(KEY)] == ["model.onnx"]
    assert [piece async for piece in engine.output(KEY, "model.onnx", most_bytes=100)] == [b"model"]
    with pytest.raises(OutputMissing):
        await engine.outputs(AttemptKey("job_a", 2))
    with pytest.raises(OutputOutside):
        await engine.outputs(AttemptKey("..", 1))


async def test_no_folder_on_the_way_that_a_pod_can_exchange_may_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "1" / "output").mkdir(parents=True)
    (tmp_path / "work" / "attempts").mkdir(parents=True)
    (tmp_path / "work" / "attempts" / "job_a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputOutside):
        await Only(str(tmp_path / "work")).outputs(KEY)
