#!/usr/bin/env bash
# `[local]` and the package with the default reference LLM lead to a first score.
source "$(dirname "$0")/lib.sh"
started=$SECONDS
with_local env
proved "installed in $((SECONDS - started)) s, $(size env) MB; $(env/bin/python "$here/score.py")"
