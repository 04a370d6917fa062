#!/usr/bin/env bash
# The base installs and works on each Python that is supported and at hand.
source "$(dirname "$0")/lib.sh"
found=()
for version in 3.11 3.12 3.13; do
  python=""
  for candidate in "$HOME/.pyenv/versions/$version".*/bin/python "$(command -v "python$version" || true)"; do
    if [ -x "$candidate" ] && "$candidate" -c "import venv" 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    found+=("$version is not at hand: skipped")
    continue
  fi
  fresh "env$version" "$python"
  install "env$version" "$root"
  "env$version/bin/python" "$here/fake.py" >/dev/null
  found+=("$version works")
done
proved "$(printf '%s; ' "${found[@]}")base alone"
