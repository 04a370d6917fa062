#!/usr/bin/env bash
# Run every script, one after the other; those that need `[local]` share one environment.
set -uo pipefail
cd "$(dirname "$0")"
failed=()
run() { "./$1.sh" || { echo "$1: FAILED" && failed+=("$1"); }; }

run base
run sdist
[ -d ../../dist ] && run wheel
run pythons
run local
if [ -z "${LOCAL_ENV:-}" ]; then
  shared=$(mktemp -d)
  trap 'rm -rf "$shared"' EXIT
  bash -c 'source ./lib.sh && with_local "$1"' ./shared.sh "$shared/env" || exit 1
  export LOCAL_ENV=$shared/env
fi
for script in read_only_home offline two_processes folder; do run "$script"; done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}" && exit 1; }
