"""`dujiang moves`: which running work could make room elsewhere."""

from __future__ import annotations

from typing import Any

from dujiang.cli.output import Column, clean, col, figure, listing, milli, moment, note, say, write_json
from dujiang.cli.session import Json, connect


def moves(json: Json = False) -> None:
    """List running work that could make room elsewhere: what that frees, what it costs, why it is not moved."""
    with connect() as client:
        found = client.get("/v1/moves")
    if json:
        write_json(found)
        return
    if found["defragment"] == "off":
        say('Nobody looks: scheduling.defragment is "off"; "advise" tells of moves, "act" makes them.')
    elif found["at"] is None:
        say("Nobody has looked yet; that happens every loops.defragment_s.")
    else:
        empty = f"Nothing to move, of {figure(found['movable'])} jobs that saved themselves shortly before."
        listing(found["moves"], _COLUMNS, as_json=False, empty=empty)
        _notes(found)


def _notes(found: dict[str, Any]) -> None:
    for one in found["moves"]:
        told = one["why_not"] or "Stopped for it; where it goes on is the choice of the plan that starts it again."
        note(f"{one['job_id']}: {clean(told)}")
    waiting = found["waiting"]
    jobs = f"{figure(waiting)} job{'' if waiting == 1 else 's'}"
    note(
        f"Looked at {moment(found['at'])}: {jobs} waited for whole devices; "
        f"{figure(found['moved_this_hour'])} of {figure(found['most_moves_hourly'])} moves made within the hour."
    )


def _place(name: str) -> Any:
    def told(row: dict[str, Any]) -> str:
        place = row[name]
        return f"{place['node']} {','.join(place['devices'])}".strip()

    return told


_COLUMNS = (
    Column("JOB", lambda row: row["job_id"]),
    col("NAME", "job_name"),
    Column("FROM", _place("source")),
    Column("COULD GO TO", _place("target")),
    Column("GPU", lambda row: milli(row["source"]["gpu_milli"]), right=True),
    Column("WHOLE FREED", lambda row: figure(row["whole_devices"]), right=True),
    Column("USABLE FREED", lambda row: milli(row["stranded_milli"]), right=True),
    Column("LOSES GPU-S", lambda row: figure(row["cost_device_s"]), right=True),
)
