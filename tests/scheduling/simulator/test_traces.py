"""Traces that cannot be read: the row and the column are named."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dujiang.scheduling.simulator.traces import BadTrace, Node, Pod, read_nodes, read_pods

NODES = "sn,cpu_milli,memory_mib,gpu,model\n"
PODS = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n"


@pytest.mark.parametrize("packed", [False, True])
def test_both_forms_are_read_with_other_columns_passed_over(tmp_path: Path, packed: bool) -> None:
    text = "\ufeffgpu,model,sn,cpu_milli,memory_mib,colour\n2,T4,n1,96000,1024,red\n\n0,,n2,32000.0,1024,\n"
    path = tmp_path / "nodes.csv"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert read_nodes(path) == [Node("n1", 96_000, 1024, 2, "T4"), Node("n2", 32_000, 1024, 0, "")]
    path.write_text(PODS + "p1,1,2,1,500,A|B\np2,1,2,0,1000,A\np3,1,2,2,1000,\n")
    assert read_pods(path) == [
        Pod("p1", 1, 2, 1, 500, ("A", "B")), Pod("p2", 1, 2, 0, 0, ("A",)), Pod("p3", 1, 2, 2, 1000, ()),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "row", "column", "said"),
    [
        (NODES + "n1,x,1,1,T4\n", 2, "cpu_milli", "not a number"),
        (NODES + "n1,1,1,1,T4\nn2,1,-5,1,T4\n", 3, "memory_mib", "from 0"),
        (NODES + "n1,1,1,99,T4\n", 2, "gpu", "from 0 to 16"),
        (NODES + "n1,1,1,1.5,T4\n", 2, "gpu", "whole number"),
        (NODES + "n1,1,nan,1,T4\n", 2, "memory_mib", "whole number"),
        (NODES + "n1,1,1,1,\n", 2, "model", "name it"),
        (NODES + "n1,1,1,1\n", 2, "model", "4 cells where the header has 5"),
        (NODES + "n1,1,1,1,T4,more\n", 2, "model", "6 cells"),
        ("sn,cpu_milli,memory_mib,model\n", 1, "gpu", "no column gpu"),
        ("", 1, None, "empty"),
        (NODES + 'n1,"1,1,1,T4\n', 2, None, "unexpected end"),
        (NODES, None, None, "no nodes"),
        (NODES + "n1,1,1,0,\n", None, "gpu", "no GPU"),
    ],
)
def test_bad_nodes_are_told_by_row_and_column(
    tmp_path: Path, text: str, row: int | None, column: str | None, said: str
) -> None:
    path = tmp_path / "nodes.csv"
    path.write_text(text)
    with pytest.raises(BadTrace) as caught:
        read_nodes(path)
    assert said in caught.value.sentence
    assert caught.value.facts.get("row") == row
    assert caught.value.facts.get("column") == column
    if row and column and row > 1:
        assert f"row {row}, column {column}" in caught.value.sentence


@pytest.mark.parametrize(
    ("line", "column", "said"),
    [
        ("p1,1,1,1,0,", "gpu_milli", "1 to 1000"),
        ("p1,1,1,1,1001,", "gpu_milli", "from 0 to 1000"),
        ("p1,1,1,2,500,", "gpu_milli", "only a pod of one GPU"),
        ("p1,1,1,-1,500,", "num_gpu", "from 0"),
        ("p1,,1,1,500,", "cpu_milli", "not a number"),
    ],
)
def test_bad_pods_are_told_by_row_and_column(tmp_path: Path, line: str, column: str, said: str) -> None:
    path = tmp_path / "pods.csv"
    path.write_text(PODS + "p0,1,1,1,500,\n" + line + "\n")
    with pytest.raises(BadTrace, match=f"row 3, column {column}") as caught:
        read_pods(path)
    assert said in caught.value.sentence


def test_files_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(BadTrace, match="There is no file"):
        read_pods(tmp_path / "none.csv")
    path = tmp_path / "pods.csv.gz"
    path.write_bytes(gzip.compress(PODS.encode())[:-9])
    with pytest.raises(BadTrace, match="cannot be read"):
        read_pods(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadTrace, match="UTF-8"):
        read_pods(path)
    path.write_text(PODS + "p1,1,1,0,0,\n")
    with pytest.raises(BadTrace, match="nothing to place"):
        read_pods(path)
    with pytest.raises(BadTrace, match="cannot be read"):
        read_pods(tmp_path)
