#!/usr/bin/env bash
# Without a network the packaged reference LLM is used, and a hub id is one clear error.
source "$(dirname "$0")/lib.sh"
local_env
export HF_HUB_OFFLINE=1 HF_HOME=$work/hub
cut=()
if unshare --net true 2>/dev/null; then cut=(unshare --net); fi
found=$("${cut[@]}" "$env/bin/python" "$here/score.py" 2>errors) || { cat errors >&2 && exit 1; }
if "${cut[@]}" "$env/bin/python" "$here/score.py" someone/no-such-model 2>errors; then exit 1; fi
grep -q "ReferenceNotFoundError: .* the hub cannot be reached" errors || { cat errors >&2 && exit 1; }
proved "${cut[0]:+no network at all; }a hub id is a clear error; $found"
