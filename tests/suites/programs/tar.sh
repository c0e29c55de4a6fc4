#!/usr/bin/env bash
# A tree with one of everything into an archive in the mount, and unpacked there.
set -euo pipefail
all=(--xattrs '--xattrs-include=*' --acls --sparse --format=posix)

if [ "$1" = make ]; then
    /usr/bin/python3 "$SUITES/tree.py" "$SCRATCH/tree"
    tar "${all[@]}" -C "$SCRATCH/tree" -cf archive.tar . 2> >(grep -v 'socket ignored' >&2)
    rm "$SCRATCH/tree/modes/socket"
    touch -hr "$SCRATCH/tree/empty" "$SCRATCH/tree/modes"
    mkdir out
    tar "${all[@]}" -xpf archive.tar -C out
    touch -hr "$SCRATCH/tree/empty" out/modes
fi
tar "${all[@]}" -df archive.tar -C out 2>&1 | (! grep -v 'modes: Mod time differs')
diff <(/usr/bin/python3 "$SUITES/manifest.py" "$SCRATCH/tree") <(/usr/bin/python3 "$SUITES/manifest.py" out)
