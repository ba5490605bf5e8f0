#!/usr/bin/env bash
# Says the version of what is checked out, as an image and its update carry it:
# 1.2.3 for what is tagged v1.2.3; between releases what sorts behind the last one and
# before any that follows, 1.2.4-0.TIME.gCOMMIT, and 0.0.1-0.TIME.gCOMMIT before the first
# one; "+dirty" with changes of one's own.
#
# Within what stands behind the "-" there is no other one: RAUC would not read it.
set -euo pipefail
cd "$(dirname "$0")"
described=$(git describe --tags --match 'v[0-9]*' --long 2>/dev/null || true)
time=$(TZ=UTC git log -1 --format=%cd --date=format-local:%Y%m%d%H%M%S)
commit=$(git log -1 --format=%h)
dirty=
if [ -n "$(git status --porcelain --untracked-files=no)" ]; then
	dirty=+dirty
fi
if [[ $described =~ ^v([0-9]+)\.([0-9]+)\.([0-9]+)-0-g ]]; then
	echo "${described%%-*}$dirty" | sed 's/^v//'
elif [[ $described =~ ^v([0-9]+)\.([0-9]+)\.([0-9]+)- ]]; then
	echo "${BASH_REMATCH[1]}.${BASH_REMATCH[2]}.$((BASH_REMATCH[3] + 1))-0.$time.g$commit$dirty"
else
	echo "0.0.1-0.$time.g$commit$dirty"
fi
