#!/usr/bin/env bash
# A tree with one of everything into the mount and out again; both copies must be the tree.
set -euo pipefail
same() { # same DIRECTORY DIRECTORY: in everything that the manifest shows
    diff <(/usr/bin/python3 "$SUITES/manifest.py" "$1") <(/usr/bin/python3 "$SUITES/manifest.py" "$2")
}

if [ "$1" = make ]; then
    /usr/bin/python3 "$SUITES/tree.py" "$SCRATCH/tree"
    rsync --modify-window=-1 -aHAXS "$SCRATCH/tree/" "in"
    rsync --modify-window=-1 -aHAX --no-whole-file --inplace --checksum "$SCRATCH/tree/" "in"
fi
same "$SCRATCH/tree" in
[ -z "$(rsync --modify-window=-1 -aHAXni --checksum --delete "$SCRATCH/tree/" in)" ]
chmod -R u+rwX "$SCRATCH/out" 2>/dev/null && rm -rf "$SCRATCH/out"
rsync --modify-window=-1 -aHAXS in/ "$SCRATCH/out"
same "$SCRATCH/tree" "$SCRATCH/out"
