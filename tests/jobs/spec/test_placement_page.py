"""What the page about placement shows is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dujiang.engines.simulated import parse_fleet
from dujiang.jobs.spec import parse
from dujiang.pool.domain.marks import PLACE_LABELS

PAGE = (Path(__file__).parents[3] / "docs" / "placement.md").read_text()
BLOCKS = re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_example_is_a_job_that_reads_back(block: str) -> None:
    (job,) = parse(block)
    assert parse(json.dumps(job.document())) == [job]


def test_the_table_of_labels_is_the_one_that_is_read() -> None:
    rows = {
        row[0]: tuple(re.findall(r"`([^`]+)`", row[1])) for row in re.findall(r"^\| (\w+) \| (`.*) \|$", PAGE, re.M)
    }
    assert rows == dict(PLACE_LABELS)


def test_the_virtual_cluster_is_one() -> None:
    (fleet,) = re.findall(r"--simulate (\S+)", PAGE)
    assert parse_fleet(fleet).places.site == 32
