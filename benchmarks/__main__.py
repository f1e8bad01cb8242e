"""`python benchmarks` lists the benchmarks, `python benchmarks NAME [ARGUMENT...]` runs one."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(words: list[str]) -> int:
    """List, or run the benchmark named."""
    found = {path.stem: path for path in sorted(FOLDER.glob("*.py")) if not path.name.startswith("_")}
    if not words:
        for name, path in found.items():
            said = ast.get_docstring(ast.parse(path.read_text())) or ""
            print(f"  make bench B={name:<16} {said.splitlines()[0] if said else ''}")
        print("Each prints what it measured, on which machine; docs/benchmarks.md keeps the figures.")
        return 0
    if words[0] not in found:
        print(f"There is no benchmark named {words[0]!r}; there are: {', '.join(found)}.", file=sys.stderr)
        return 2
    return subprocess.call([sys.executable, str(found[words[0]]), *words[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
