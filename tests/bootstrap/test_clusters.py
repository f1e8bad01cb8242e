"""Tables of clusters that cannot be connected: the sentence names the table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dujiang.bootstrap.clusters import connect
from dujiang.bootstrap.home import PlatformHome
from dujiang.engines.contract import EngineRefused
from dujiang.kit.clock import SystemClock
from tests.bootstrap.test_settings import loaded


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[clusters.a.slurm]\nwork_dir = '/x'\n[clusters.a.kubernetes]\n", r"\[clusters.a\] is both"),
        ("[clusters.local.slurm]\nwork_dir = '/x'\n", r"\[clusters.local.slurm\]: 'local' is taken"),
        (
            "[clusters.a.slurm]\nwork_dir = '/x'\n[clusters.b.slurm]\nwork_dir = 'y'\n",
            r"\[clusters.b.slurm\]: .*absolute",
        ),
    ],
)
def test_a_table_that_cannot_be_is_named(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(EngineRefused, match=says):
        connect(PlatformHome(tmp_path, tmp_path), loaded(tmp_path, text), SystemClock(), b"key")
