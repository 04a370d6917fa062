#!/usr/bin/env bash
# Without a home that can be written, a temporary cache is used, and one warning says so.
source "$(dirname "$0")/lib.sh"
local_env
unset SRR_GUARD_CACHE XDG_CACHE_HOME
mkdir home tmp
export TMPDIR=$work/tmp
chmod 555 home
run=(env HOME="$work/home" "$env/bin/python" "$here/score.py")
if [ -w home ]; then # root may write anywhere but to a read-only file system
  unshare --mount true 2>/dev/null || skip "root may write anywhere here, and nothing can be mounted"
  run=(unshare --mount sh -c 'mount -t tmpfs -o ro tmpfs home && "$@"' sh "${run[@]}")
fi
found=$("${run[@]}" 2>warnings) || { cat warnings >&2 && exit 1; }
test "$(grep -c "cannot be written" warnings)" = 1 || { cat warnings >&2 && exit 1; }
left=$(compgen -G "tmp/srr_guard-*" || true) # torch leaves a folder of its own
test -z "$left" || { echo "$name: left behind: $left" >&2 && exit 1; }
proved "one warning; $found"
