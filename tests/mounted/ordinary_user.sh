#!/usr/bin/env bash
# What an ordinary user does, in the current directory: a copy of the program, a password, and the
# test programs are there. `work [PROGRAMS]` does it all, the others one step that is expected to be refused.
set -euo pipefail
export PYTHONDONTWRITEBYTECODE=1
akasha=./akasha
with=(--password-file password)

case $1 in
init)
    "$akasha" init vault --argon2-memory 19MiB --argon2-passes 2 --argon2-lanes 1 "${with[@]}"
    mkdir -p plain
    ;;
mount) exec "$akasha" mount "$2" plain "${with[@]}" ;;
mount-on) exec "$akasha" mount vault "$2" "${with[@]}" ;;
work)
    trap 'fusermount3 -uzq plain || true' EXIT
    bash "$0" init
    programs=${2:-json_save mapped failing_writer unlinked tmpfile metadata rename space special times xattrs}
    "$akasha" mount vault plain "${with[@]}"
    for program in $programs; do
        mkdir "plain/$program"
        step="do"
        if [ "$program" = json_save ]; then step="sync"; fi
        /usr/bin/python3 "tests/$program.py" "plain/$program" "$step"
    done
    # A file made in a directory that is then read-only; modes that shut its owner out.
    mkdir plain/shut
    echo inside >plain/shut/file
    chmod 0 plain/shut/file
    chmod 500 plain/shut
    "$akasha" umount plain
    "$akasha" mount vault plain "${with[@]}"
    for program in $programs; do
        /usr/bin/python3 "tests/$program.py" "plain/$program" check
    done
    [ "$(stat -c %a plain/shut plain/shut/file | tr '\n' ' ')" = "500 0 " ]
    if cat plain/shut/file 2>/dev/null || touch plain/shut/new 2>/dev/null; then
        echo "modes are not enforced" >&2
        exit 1
    fi
    chmod 600 plain/shut/file
    [ "$(cat plain/shut/file)" = inside ]
    "$akasha" umount plain
    [ -z "$(ls plain)" ]
    ;;
esac
