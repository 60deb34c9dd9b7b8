#!/bin/sh
# Says whether a change made MiniBit worse; for any CI, or a pre-push hook.
#   docs/ci/compare.sh [BASE]        BASE is a revision, origin/main unless given
# Exit codes are those of minibit compare: 0 not regressed, 1 regressed, 3 inconclusive, 4 could not be compared.
# Environments and the machine's selftest are kept in MINIBIT_CACHE (~/.cache/minibit): cache that folder.
set -eu
base=${1:-origin/main}
cache=${MINIBIT_CACHE:-$HOME/.cache/minibit}
tools=$cache/tools
[ -x "$tools/bin/minibit" ] || python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check -e '.[compare]'
export MINIBIT_CACHE="$cache" MINIBIT_RESULTS="$cache/results"
ls "$MINIBIT_RESULTS"/*/selftest.json >/dev/null 2>&1 || "$tools/bin/minibit" selftest
code=0
"$tools/bin/minibit" compare "$base" --json comparison.json || code=$?
[ ! -f comparison.json ] || "$tools/bin/minibit" report comparison.json -o comparison.html
exit "$code"
