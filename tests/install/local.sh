#!/usr/bin/env bash
# `[local]` and the package with the default reference LLM lead to a first score.
source "$(dirname "$0")/lib.sh"
started=$SECONDS
env=env
with_local env
seconds=$((SECONDS - started))
first=$(score)
proved "installed in $seconds s, $(size env) MB; $first"
