#!/usr/bin/env bash
# Write the hashed locks anew from pyproject.toml. The files name no registry host.
set -euo pipefail
cd "$(dirname "$0")/.."
uv=${UV:-.venv/bin/uv}
flags=(--universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate -q)
"$uv" pip compile pyproject.toml --extra dev --extra examples "${flags[@]}" "$@" -o requirements/dev.txt
"$uv" pip compile pyproject.toml "${flags[@]}" -c requirements/dev.txt -o requirements/run.txt
"$uv" pip compile requirements/bench.in "${flags[@]}" "$@" -o requirements/bench.txt
