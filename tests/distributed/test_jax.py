"""jax on two processes through the whole platform."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.distributed.conftest import Desk
from tests.distributed.parts import jax_python

pytestmark = pytest.mark.distributed
GATHER = """\
import os
import jax
jax.distributed.initialize(
    num_processes=int(os.environ["JAX_NUM_PROCESSES"]), process_id=int(os.environ["JAX_PROCESS_ID"])
)
from jax.experimental import multihost_utils
import jax.numpy as jnp
gathered = multihost_utils.process_allgather(jnp.array([10 * jax.process_index() + 1]))
print(f"process {jax.process_index()} of {jax.process_count()} gathered {sorted(gathered.flatten().tolist())}")
"""


def test_two_processes_meet_at_the_coordinator(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "gather.py").write_text(GATHER)
    ident = desk.submit("jax", f"{jax_python()} {tmp_path}/gather.py", nodes=2, distributed="jax")
    desk.completed(ident)
    for rank in range(2):
        assert f"process {rank} of 2 gathered [1, 11]" in desk.said(ident, rank=rank)
