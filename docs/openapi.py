"""Keep docs/openapi.json the description of the API as it is: `python docs/openapi.py [--check]`.

Without --check the file is written anew. Either way the exit status is 1 when it was not current, so that a
change of the API is seen in its review.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from pathlib import Path

PUBLISHED = Path(__file__).with_name("openapi.json")


def main(words: list[str]) -> int:
    """Compare, write unless only asked to check, and say what differs."""
    made = subprocess.run([sys.executable, "-m", "dujiang.bootstrap.openapi"], stdout=subprocess.PIPE, check=False)
    if made.returncode != 0:
        sys.stderr.write("The description of the API could not be made; the lines above say why.\n")
        return 2
    wanted = made.stdout.decode()
    published = PUBLISHED.read_text() if PUBLISHED.exists() else ""
    if wanted == published:
        return 0
    changes = difflib.unified_diff(
        published.splitlines(), wanted.splitlines(), "published", "the API", n=1, lineterm=""
    )
    sys.stderr.write("\n".join(list(changes)[:60]) + "\n")
    if "--check" in words:
        sys.stderr.write(f"docs/{PUBLISHED.name} is not current: run `make openapi` and commit the file.\n")
    else:
        PUBLISHED.write_text(wanted)
        sys.stderr.write(f"docs/{PUBLISHED.name} was not current and has been written anew: commit it.\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
