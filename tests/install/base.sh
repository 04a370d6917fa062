#!/usr/bin/env bash
# The base alone: no torch, a guard decides, and what is missing is one line.
source "$(dirname "$0")/lib.sh"
fresh env
before=$(size env)
started=$SECONDS
install env "$root"
seconds=$((SECONDS - started))
env/bin/srr-guard --version >/dev/null
proved "installed in $seconds s, $(($(size env) - before)) MB; $(env/bin/python "$here/fake.py")"
