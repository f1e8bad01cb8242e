#!/bin/sh
# Make .venv in the checkout from the hashed lock, or leave at once when nothing has changed.
# Needs Python 3.11 or newer (PYTHON=... names one) and a package registry that pip is set up for.
set -eu
cd "$(dirname "$0")/.."
lock=requirements/dev.txt
stamp=.venv/.dujiang-setup

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
able() { "$1" -c 'import ensurepip, venv' >/dev/null 2>&1; }

# The first Python that is recent and can make an environment; else the first that is recent.
# A name on the path is no proof: shims of version managers exist for versions that are not active.
choose() {
    first=
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        recent "$candidate" || continue
        if able "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
        first=${first:-$candidate}
    done
    printf '%s' "$first"
}

# The folder belongs to the stamp: the commands in .venv/bin name it, so a copied or moved checkout needs its own.
wanted="$(pwd) $(cat "$lock" pyproject.toml requirements/setup.sh | cksum)"
if [ -x .venv/bin/dujiang ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && recent .venv/bin/python; then
    exit 0
fi

case "$(cat "$stamp" 2>/dev/null)" in
    "" | "$(pwd) "*) ;;
    *) rm -rf .venv ;;
esac
if ! { recent .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python=$(choose)
    if [ -z "$python" ]; then
        found=$("${PYTHON:-python3}" --version 2>&1) || found="that does not run here"
        fail "Dujiang needs Python 3.11 or newer; ${PYTHON:-python3}: $found." \
            "Install one (Debian, Ubuntu: apt install python3 python3-venv; Fedora: dnf install python3.12; macOS: brew install python@3.13)," \
            "or name one: make setup PYTHON=/path/to/python3.12"
    fi
    if ! able "$python"; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        home=$("$python" -c 'import sys; print(sys.base_prefix)')
        if [ "$home" = /usr ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then  # the system's own
            echo "setup: $python cannot make environments yet; installing python$version-venv"
            export DEBIAN_FRONTEND=noninteractive
            { apt-get update -qq && apt-get install -qq -y --no-install-recommends "python$version-venv"; } >/dev/null ||
                fail "python$version-venv could not be installed. See the lines above, then run make setup again."
        fi
        able "$python" || fail "$python cannot make environments: its venv and ensurepip are missing." \
            "Install them (Debian, Ubuntu: apt install python$version-venv), or name another: make setup PYTHON=/path/to/python3.12"
    fi
    echo "setup: making .venv with $("$python" --version 2>&1)"
    rm -rf .venv
    "$python" -m venv .venv || fail "$python could not make .venv. See the lines above; is there room on the disk?"
fi

rm -f "$stamp"
echo "setup: installing $(grep -c '==' "$lock") locked packages into .venv (a minute or more the first time)"
pip() {
    .venv/bin/python -m pip --quiet --no-input --disable-pip-version-check install --progress-bar off \
        --root-user-action ignore "$@" ||
        fail "The packages could not be installed; pip says why above." \
            "Without a way to the public registry set PIP_INDEX_URL to a mirror, then run make setup again: it goes on where it stopped."
}
pip --require-hashes -r "$lock"
pip --no-deps --no-build-isolation -e .
printf '%s\n' "$wanted" >"$stamp"
echo "setup: done. The command is .venv/bin/dujiang"
