#!/usr/bin/env bash
# Two processes that start at once with an empty cache do not get in each other's way.
source "$(dirname "$0")/lib.sh"
local_env
"$env/bin/python" "$here/score.py" >one 2>errors &
first=$!
"$env/bin/python" "$here/score.py" >two 2>>errors &
second=$!
wait $first || { cat errors >&2 && exit 1; }
wait $second || { cat errors >&2 && exit 1; }
test "$(cut -d';' -f1 one)" = "$(cut -d';' -f1 two)" || { cat one two >&2 && exit 1; }
test "$(ls -A "$SRR_GUARD_CACHE/reference" | wc -l)" = 1
proved "the same numbers and one converted model; $(cat one)"
