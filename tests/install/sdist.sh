#!/usr/bin/env bash
# A source distribution installs, with the shipped scorer in it.
source "$(dirname "$0")/lib.sh"
fresh build
install build hatchling
(cd "$root" && quietly "$work/build/bin/python" -m hatchling build -t sdist -d "$work/dist")
fresh env
install env dist/srr_guard-*.tar.gz
bundles=$(env/bin/python -c "from srr_guard.scorer import ScorerBundle; print(*ScorerBundle.shipped())")
test "$bundles" = smollm2-135m
proved "$(du -k dist/*.tar.gz | cut -f1) kB, brings $bundles; $(env/bin/python "$here/fake.py")"
