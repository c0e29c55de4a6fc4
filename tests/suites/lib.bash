# shellcheck shell=bash
# What the suites share: a place to work in, mounts, and the end of both. Sourced by scripts/suites.
# It expects: root (the repository), akasha (the program).
: "${root:?}" "${akasha?}"

say() { printf '%s\n' "$*"; }

# --- who does it -----------------------------------------------------------------------------------

as=()     # the prefix that makes a command an ordinary user's
user=root # for the names of what is run

# nobody, when --user is given to root; whoever calls, when that is an ordinary user.
become() { # become root|user
    as=()
    user=$(id -un)
    if [ "$1" = user ] && [ "$(id -u)" = 0 ]; then
        as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
        user=nobody
    fi
}

as_them() { # as_them COMMAND...: with the environment that the programs get
    "${as[@]}" env HOME="$work/home of $user" USER="$user" LC_ALL=C.UTF-8 TMPDIR="$work/tmp" \
        PYTHONDONTWRITEBYTECODE=1 PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "$@"
}

# --- where -----------------------------------------------------------------------------------------

# On a disk, below a path with a space, open to the ordinary users that some programs become.
make_place() {
    work=$(mktemp -d "${TMPDIR:-/var/tmp}/akasha suites.XXXXXX")
    chmod 755 "$work"
    mkdir "$work/tmp"
    chmod 1777 "$work/tmp"
    cp "$akasha" "$work/akasha"
    cp -r "$root/tests/suites" "$work/suites"
    chmod -R a+rX "$work/suites" "$work/akasha"
    akasha=$work/akasha
}

at='' # the directory of the vault, its mount and its password that is in use

vault() { # vault NAME [INIT OPTION...]: a new vault of the user's in $at
    at=$work/$1
    rm -rf --one-file-system "$at"
    mkdir -p "$at/plain" "$at/scratch" "$work/home of $user"
    (umask 077 && echo "correct horse" >"$at/password")
    if [ ${#as[@]} -gt 0 ]; then chown -R 65534:65534 "$at" "$work/home of $user"; fi
    as_them "$akasha" init "$at/vault" --password-file "$at/password" \
        --argon2-memory 19MiB --argon2-passes 2 --argon2-lanes 1 "${@:2}"
    # Others reach what is mounted; who may do what there is decided by modes.
    chmod 755 "$at/vault"
}

mount_vault() { # mount_vault [OPTION...]
    as_them "$akasha" mount "$at/vault" "$at/plain" --password-file "$at/password" "$@"
}

unmount_vault() { as_them "$akasha" umount "$at/plain"; }

discard_vault() {
    find "$at/scratch" -type d ! -perm -700 -exec chmod u+rwx {} + 2>/dev/null || true
    rm -rf --one-file-system "$at"
}

# --- the end ---------------------------------------------------------------------------------------

children=() # what runs in the background, each the leader of its own process group

# Starts a command that a signal to this script ends, with everything it started. The caller has
# switched job control on (set -m), which is what makes the groups.
start() { # start LOG COMMAND...; LOG may be -, where everything goes
    (
        if [ "$1" != - ]; then exec >"$1" 2>&1; fi
        "${@:2}"
    ) &
    children+=("$!")
}

end_of() { # end_of CHILD: its exit code; nothing of it outlives it
    local status=0 kept=() child
    wait "$1" || status=$?
    kill -KILL -- "-$1" 2>/dev/null || true
    for child in "${children[@]}"; do
        if [ "$child" != "$1" ]; then kept+=("$child"); fi
    done
    children=("${kept[@]}")
    return "$status"
}

mounts_here() { # every mount below the place, the newest first
    awk -v place="${work// /\\\\040}/" 'index($5, place) == 1 { print $5 }' /proc/self/mountinfo |
        tac | sed 's/\\040/ /g'
}

tidy_up() {
    local status=$? child path
    trap - EXIT
    trap '' INT TERM
    for child in "${children[@]}"; do kill -- "-$child" 2>/dev/null || true; done
    for child in "${children[@]}"; do
        for _ in {1..100}; do
            kill -0 -- "-$child" 2>/dev/null || break
            sleep 0.1
        done
        kill -KILL -- "-$child" 2>/dev/null || true
    done
    while read -r path; do
        "$akasha" umount "$path" 2>/dev/null || umount -l "$path" 2>/dev/null ||
            fusermount3 -uzq "$path" || true
    done < <(mounts_here)
    if [ -n "$(mounts_here)" ]; then
        say "still mounted, left as it is: $(mounts_here)" >&2
        exit 1
    fi
    if [ "${keep:-}" = yes ]; then
        say "kept: $work"
    else
        find "$work" -xdev -type d ! -perm -700 -exec chmod u+rwx {} + 2>/dev/null || true
        rm -rf --one-file-system "$work"
    fi
    exit "$status"
}

end_tidily() {
    trap tidy_up EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
