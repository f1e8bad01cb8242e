"""Reads nodes and pods as in the openb traces, .csv or .csv.gz; what cannot be read is told by row and column."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dujiang.kit.errors import Invalid

MOST_GPUS: Final = 16
MOST_MODELS: Final = 60
_MOST: Final = 2**53
"""The largest amount that is believed; sums of many stay exact."""


class BadTrace(Invalid):
    """A file of a trace that cannot be read."""

    code, title = "bad_trace", "The trace cannot be read"


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a trace."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    model: str


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a trace: what it asks for."""

    name: str
    cpu_milli: int
    memory_mib: int
    gpus: int
    gpu_milli: int
    """Of each device; 0 for a pod without any."""
    models: tuple[str, ...]
    """Any of these; empty is any model."""


def read_nodes(path: Path) -> list[Node]:
    """Read nodes: columns sn, cpu_milli, memory_mib, gpu, model; others are passed over.

    Raises:
        BadTrace: with the row (the header is row 1) and the column.
    """
    nodes = [_node(row) for row in _rows(path, ("sn", "cpu_milli", "memory_mib", "gpu", "model"))]
    if not nodes:
        raise BadTrace(f"{path} has no nodes, only a header. Give a file with one node a row.", file=str(path))
    if not any(node.gpus for node in nodes):
        raise BadTrace(f"{path} has no GPU on any node: column gpu is 0 everywhere.", file=str(path), column="gpu")
    if len({node.model for node in nodes}) > MOST_MODELS:
        raise BadTrace(f"{path} names more than {MOST_MODELS} models of GPU.", file=str(path), column="model")
    return nodes


def read_pods(path: Path) -> list[Pod]:
    """Read pods: columns name, cpu_milli, memory_mib, num_gpu, gpu_milli and, where there, gpu_spec.

    Raises:
        BadTrace: with the row (the header is row 1) and the column.
    """
    pods = [_pod(row) for row in _rows(path, ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"))]
    if not any(pod.gpus for pod in pods):
        raise BadTrace(f"{path} has no pod that asks for a GPU; there is nothing to place.", file=str(path),
                       column="num_gpu")  # fmt: skip
    return pods


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, and how to complain about it."""

    path: Path
    number: int
    cells: Mapping[str, str]

    def bad(self, column: str, why: str) -> BadTrace:
        """Return the error that names this row and a column."""
        return BadTrace(f"{self.path}, row {self.number}, column {column}: {why}", file=str(self.path),
                        row=self.number, column=column)  # fmt: skip

    def whole(self, column: str, *, least: int = 0, most: int = _MOST) -> int:
        """Return a whole number in a range; `12.0` is one too."""
        text = self.cells[column].strip()
        try:
            value = int(text) if text.lstrip("+-").isdigit() else float(text)
        except ValueError:
            raise self.bad(column, f"{text!r} is not a number; write a whole number of {least} or more.") from None
        if not least <= value <= most or value != int(value):  # also refuses NaN
            raise self.bad(column, f"{text} is not a whole number from {least} to {most}.")
        return int(value)


def _node(row: Row) -> Node:
    gpus = row.whole("gpu", most=MOST_GPUS)
    model = row.cells["model"].strip()
    if gpus and not model:
        raise row.bad("model", "a node with GPUs has a model; name it, any word does.")
    return Node(row.cells["sn"], row.whole("cpu_milli"), row.whole("memory_mib"), gpus, model)


def _pod(row: Row) -> Pod:
    gpus = row.whole("num_gpu", most=MOST_GPUS)
    milli = row.whole("gpu_milli", most=1000) if gpus else 0
    if gpus and not milli:
        raise row.bad("gpu_milli", "a pod with GPUs asks for 1 to 1000 thousandths of each, not 0.")
    if gpus > 1 and milli < 1000:
        raise row.bad("gpu_milli", f"{gpus} GPUs of {milli} thousandths: only a pod of one GPU may ask for a fraction.")
    models = tuple(word.strip() for word in row.cells.get("gpu_spec", "").split("|") if word.strip())
    return Pod(row.cells["name"], row.whole("cpu_milli"), row.whole("memory_mib"), gpus, milli, models)


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[Row]:
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
    except FileNotFoundError:
        raise BadTrace(f"There is no file {path}. Give the path of a .csv or .csv.gz file.", file=str(path)) from None
    except (OSError, EOFError) as error:
        raise BadTrace(f"{path} cannot be read: {error}.", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise BadTrace(f"{path} is not text in UTF-8 (byte {error.start}).", file=str(path)) from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if not header:
                header = [cell.strip() for cell in cells]
                missing = [column for column in columns if column not in header]
                if missing:
                    raise BadTrace(f"{path}, row 1: there is no column {missing[0]}; it needs {', '.join(columns)}.",
                                   file=str(path), row=1, column=missing[0])  # fmt: skip
            elif cells:
                yield _row(path, number, header, cells)
    except csv.Error as error:
        raise BadTrace(f"{path}, row {number + 1}: {error}.", file=str(path), row=number + 1) from error
    if not header:
        raise BadTrace(f"{path} is empty; its first row names the columns.", file=str(path), row=1)


def _row(path: Path, number: int, header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        column = header[min(len(cells), len(header) - 1)]
        raise BadTrace(f"{path}, row {number}, column {column}: {len(cells)} cells where the header has {len(header)}.",
                       file=str(path), row=number, column=column)  # fmt: skip
    return Row(path, number, dict(zip(header, cells, strict=True)))
