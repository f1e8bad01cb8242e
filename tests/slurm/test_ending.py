"""A stop that meets a job which is just ending is quiet: `scancel` leaves then with 229 and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest

from dujiang.engines.contract import EngineUnavailable
from dujiang.engines.slurm.by_commands import CommandController
from dujiang.engines.slurm.commands import Said
from dujiang.engines.slurm.settings import SlurmSettings


class Says:
    """Answers every command with what a real `scancel` was seen to say."""

    def __init__(self, said: Said) -> None:
        self._said = said

    async def run(
        self, *words: str, env: Mapping[str, str] = MappingProxyType({}), before: Sequence[str] = (), stdin: str = ""
    ) -> Said:  # fmt: skip
        return self._said


@pytest.mark.parametrize(
    "said", [Said(229, "", ""), Said(1, "", "scancel: error: Kill job error on job id 7: Invalid job id specified\n")]
)
async def test_a_job_that_is_ending_or_gone_needs_no_stop(said: Said) -> None:
    controller = CommandController(Says(said), SlurmSettings(work_dir="/w"))
    await controller.wake("7")
    await controller.cancel("7")


async def test_another_complaint_is_told() -> None:
    controller = CommandController(Says(Said(1, "", "scancel: error: something else\n")), SlurmSettings(work_dir="/w"))
    with pytest.raises(EngineUnavailable, match="something else"):
        await controller.wake("7")
