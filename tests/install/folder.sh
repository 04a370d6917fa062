#!/usr/bin/env bash
# The reference LLM as a folder, as `hf download` leaves it: other files, so another digest, but
# the same model. Also saved again in bfloat16, which is how the hub has it.
source "$(dirname "$0")/lib.sh"
local_env
quietly "$env/bin/python" "$here/folder.py" plain bfloat16
packaged=$(score | cut -d';' -f1)
plain=$(score ./plain | cut -d';' -f1)
bfloat16=$(score ./bfloat16 | cut -d';' -f1)
test "$packaged" = "$plain"
proved "a folder of the same weights gives the same $plain; saved again in bfloat16: $bfloat16"
