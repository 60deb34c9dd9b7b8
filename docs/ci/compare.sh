#!/bin/sh
# Says whether a change made MiniBit worse; for any CI, or a pre-push hook.
#   docs/ci/compare.sh [BASE]        BASE is a revision, origin/main unless given
# Exit codes are those of minibit compare: 0 not regressed, 1 regressed, 3 inconclusive, 4 could not be compared.
# Environments and the machine's selftest are kept in MINIBIT_CACHE (~/.cache/minibit): cache that folder.
set -u
base=${1:-origin/main}
cache=${MINIBIT_CACHE:-$HOME/.cache/minibit}
mkdir -p "$cache" && cache=$(cd "$cache" && pwd) || exit 4
tools=$cache/tools
export MINIBIT_CACHE="$cache" MINIBIT_RESULTS="$cache/results"
rm -f comparison.json comparison.html

"$tools/bin/python" -c "" 2>/dev/null || python3 -m venv --clear "$tools" || exit 4
"$tools/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[compare]' || exit 4
here=$("$tools/bin/python" -c "from minibit.provenance import *; print(folder_name(describe_machine()))") || exit 4
[ -f "$MINIBIT_RESULTS/$here/selftest.json" ] || "$tools/bin/minibit" selftest || exit 4

"$tools/bin/minibit" compare "$base" --json comparison.json
code=$?
[ ! -f comparison.json ] || "$tools/bin/minibit" report comparison.json -o comparison.html
exit "$code"
