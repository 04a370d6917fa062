#!/usr/bin/env bash
# The built wheel alone, as the index would serve it: no torch, a guard decides.
#   UV   a `uv` to install with, which takes seconds where pip takes a minute
source "$(dirname "$0")/lib.sh"
wheels=("$root"/dist/srr_guard-*.whl)
[ -f "${wheels[0]}" ] || { echo "$name: no wheel in dist/, run \`make dist\`" >&2 && exit 1; }
started=$SECONDS
arguments=(--constraint "$root/constraints.txt" "${wheels[0]}")
if [ -n "${UV:-}" ]; then
  "${PYTHON:-python3}" -m venv --without-pip env
  quietly "$UV" pip install --python env/bin/python "${arguments[@]}"
else
  fresh env
  install env --no-compile "${arguments[@]}"
fi
version=$(env/bin/srr-guard --version)
found=$(env/bin/python "$here/fake.py")
proved "$version in $((SECONDS - started)) s, $(size env) MB; $found"
