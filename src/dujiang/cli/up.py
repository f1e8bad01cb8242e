"""`dujiang up`: the one command that starts the platform instead of asking it."""

from __future__ import annotations

from typing import Annotated

import typer


def up(
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="To listen on; 0 takes a free one.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; 127.0.0.1 unless set.")] = None,
    simulate: Annotated[
        str | None,
        typer.Option(
            "--simulate", help="NODESxDEVICES, such as 64x8 or 64x8/rack=16: a simulated cluster, labelled as such."
        ),
    ] = None,
    loops: Annotated[bool, typer.Option("--loops/--no-loops", help="Run the loops, or only answer requests.")] = True,
    database: Annotated[
        str | None, typer.Option("--database", help="postgresql://... instead of the SQLite file.")
    ] = None,
) -> None:
    """Start the platform on this machine and stay; Ctrl-C stops it, jobs go on."""
    from dujiang.bootstrap import serve
    from dujiang.client import home_folder

    extra = {"database": database} if database else {}
    raise typer.Exit(serve(home_folder(), port=port, host=host, simulate=simulate, loops=loops, **extra))
