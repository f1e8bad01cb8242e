"""Builds the platform out of its parts and runs it: the one place that knows them all.

`platform` makes every object and wires every subscription; `serve` runs it as a process; `home` is the folder it lives
in; `settings` the one typed tree; `proofs` what `dujiang verify` asks; `examine` what `dujiang doctor` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def serve(home: Path, **options: Any) -> int:
    """Run the platform until a signal; see `serve.serve`."""
    from dujiang.bootstrap.serve import serve as run

    return run(home, **options)


def examine(home: Path) -> Mapping[str, Any]:
    """Say what this machine offers; see `examine.examine`."""
    from dujiang.bootstrap.examine import examine as look

    return look(home)
