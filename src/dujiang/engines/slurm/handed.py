"""Hands a launch to a job of another user inside its batch script, which Slurm shows to that user and its own alone.

Secrets are split: the half in the script and the half in the work folder are each noise without the other, and the one
in the work folder is removed as soon as the job began. So neither a site that keeps batch scripts in its accounts, nor
who sees the file, has them. Standard library only: it runs on the nodes (`archive`).
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import zlib
from collections.abc import Mapping
from typing import Any

AS_ANOTHER = "as-another"
"""Tells the runner that its launch comes by standard input."""
_END = "DUJIANG-LAUNCH"


def split(secrets: Mapping[str, str]) -> tuple[str, str]:
    """Return two halves, as text; both are needed to have the secrets again."""
    plain = json.dumps(dict(secrets)).encode()
    key = os.urandom(len(plain))
    return key.hex(), bytes(one ^ other for one, other in zip(plain, key, strict=True)).hex()


def joined(one: str, other: str) -> dict[str, str]:
    """Return the secrets of two halves; none where there are none.

    Raises:
        ValueError: they do not belong together.
    """
    if not one:
        return {}
    pairs = zip(bytes.fromhex(one), bytes.fromhex(other), strict=True)
    return dict(json.loads(bytes(first ^ second for first, second in pairs)))


def script(runner: str, record: Mapping[str, Any], python: str) -> str:
    """Return the batch script, for /bin/sh: the runner takes its place and reads the record behind it.

    Slurm shows everybody where a job's output goes: so the script itself opens that file, in a place it alone knows.
    """
    packed = base64.encodebytes(zlib.compress(json.dumps(record).encode())).decode()
    words = shlex.join([python, "-sS", runner, AS_ANOTHER])
    output = shlex.quote(f"{record['place']}-{record['number']}.out")
    return f"trap '' USR1 USR2\numask 027\nexec >>{output} 2>&1\nexec {words} <<'{_END}'\n{packed}{_END}\n"


def read(text: str) -> dict[str, Any]:
    """Return a record that a batch script held."""
    return dict(json.loads(zlib.decompress(base64.b64decode(text))))
