#!/usr/bin/env bash
# The built wheel alone, as the index would serve it: no torch, a guard decides.
source "$(dirname "$0")/lib.sh"
wheels=("$root"/dist/srr_guard-*.whl)
[ -f "${wheels[0]}" ] || { echo "$name: no wheel in dist/, run \`make dist\`" >&2 && exit 1; }
started=$SECONDS
fresh env
install env --no-compile --constraint "$root/constraints.txt" "${wheels[0]}"
version=$(env/bin/srr-guard --version)
found=$(env/bin/python "$here/fake.py")
missing=$(env/bin/python -c "import importlib.util as u; print(u.find_spec('torch'))")
test "$missing" = None
proved "$version in $((SECONDS - started)) s, $(size env) MB; $found"
