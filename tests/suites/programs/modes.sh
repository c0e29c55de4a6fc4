#!/usr/bin/env bash
# Directories made read-only and files of mode 000 and 0444, written to by whoever may.
set -euo pipefail
as_user() { # as_user COMMAND...: as somebody who is bound by modes
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
    else
        "$@"
    fi
}

if [ "$1" = make ]; then
    mkdir shut sealed
    if [ "$(id -u)" = 0 ]; then chown 65534:65534 . shut sealed; fi
    for mode in 000 444 200 400 555; do
        as_user bash -c "echo $mode >shut/$mode; chmod $mode shut/$mode"
        # An open descriptor outlives the mode; the change is committed under it.
        as_user bash -c "exec 3>>shut/$mode.open; chmod $mode shut/$mode.open; echo $mode >&3"
    done
    as_user bash -c 'mkdir sealed/inner; echo kept >sealed/inner/file; chmod 0 sealed/inner; chmod 555 sealed shut'
fi
[ "$(stat -c %a shut sealed shut/* | tr '\n' ' ')" = "555 555 0 0 200 200 400 400 444 444 555 555 " ]
for refused in 'cat shut/000' 'cat shut/200' 'echo >>shut/444' 'touch shut/new' 'rm -f shut/444' \
    'ls sealed/inner' 'mv shut/444 shut/other' 'rmdir sealed/inner' 'cat sealed/inner/file'; do
    if as_user bash -c "$refused" 2>/dev/null; then
        echo "not refused: $refused"
        exit 1
    fi
done
as_user bash -c 'echo >>shut/200'
if [ "$1" = check ]; then
    as_user bash -c 'chmod 600 shut/*; chmod 700 sealed sealed/inner shut'
    for mode in 000 444 400 555; do
        [ "$(as_user cat "shut/$mode" "shut/$mode.open" | tr '\n' ' ')" = "$mode $mode " ]
    done
    [ "$(as_user cat sealed/inner/file)" = kept ]
    as_user rm -r shut sealed
fi
