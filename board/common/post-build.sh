#!/usr/bin/env bash
# Called by Buildroot with the root and the board's name.
set -euo pipefail
here=$(dirname "$(realpath "$0")")
: "${RAUC_CA:?made by make image}"
"$here/root.sh" "$2" "$1"
