#!/usr/bin/env bash
# mount(8) on the vault of the current directory, in a mount namespace of its own where akasha is installed.
set -euo pipefail
here=$PWD
point="$here/mount point"
password="password-file=$here/password"
mkdir bin
ln -s "$1" bin/akasha
mount --bind bin /usr/local/sbin
trap 'umount -l "$point" 2>/dev/null || true' EXIT

fail() {
    echo "$*; $(findmnt -n -M "$point" || echo 'not mounted')" >&2
    exit 1
}
# The mount has the flags after + and not those after -.
has() {
    local flags word
    flags=,$(findmnt -n -o VFS-OPTIONS -M "$point"),
    for word in "$@"; do
        case $word in
        +*) [[ $flags == *,${word#+},* ]] || fail "no ${word#+}" ;;
        -*) [[ $flags != *,${word#-},* ]] || fail "${word#-}" ;;
        esac
    done
}
refused() {
    local words=$1 said
    shift
    if said=$("$@" 2>&1); then fail "not refused: $*"; fi
    [[ $said == *"$words"* ]] || fail "$* says: $said"
}
works() {
    has "$@"
    if [[ " $* " == *" +rw "* ]]; then
        echo content >"$point/file"
    else
        refused "Read-only" touch "$point/new"
    fi
    [ "$(cat "$point/file")" = content ] || fail "another content"
    akasha umount "$point"
}
PATH=$here/bin:$PATH

# By type, through mount.fuse3.
by_type() { mount -t fuse.akasha -o "$password$1" vault "$point"; }
by_type ""
works +rw +nosuid +nodev -noexec
by_type ,noexec,noatime,commit=1,x-gvfs-hide,default_permissions,allow_other
works +rw +nosuid +nodev +noexec +noatime
by_type ,ro
works +ro +nosuid -noexec
# mount(8) drops these words, mount.fuse3 adds them unasked: so they mean nothing here.
by_type ,suid,dev
works +rw +nosuid +nodev
refused sparkle by_type ,sparkle

# By fstab, where the link exists and where it does not; remounted with its options.
escape() { printf %s "${1// /\\040}"; }
table() {
    echo "$(escape "$here/vault") $(escape "$point") $1 noauto,nosuid,noexec,commit=1,$(escape "$password") 0 0" >fstab
}
table fuse.akasha
mount -T fstab "$point"
works +rw +nosuid +nodev +noexec
mount -T fstab -o ro "$point"
refused "read-only" mount -T fstab -o remount,rw "$point"
works +ro +nosuid +nodev +noexec
mount -T fstab "$point"
mount -T fstab -o remount,ro "$point"
has +ro +nosuid +nodev +noexec
mount -T fstab -o remount,rw,exec "$point"
works +rw +nosuid +nodev -noexec

# By what the mount table says.
by_type ,noatime
mount -o remount,ro "$point"
has +ro +noatime +nosuid +nodev
refused "access times" mount -o remount,relatime "$point"
mount -o remount,rw,noexec "$point"
exec 5>"$point/open"
refused "in use" mount -o remount,ro "$point"
exec 5>&-
works +rw +noatime +nosuid +nodev +noexec

# By the links that mount(8) looks for.
mkdir sbin
cp -a /usr/sbin/. sbin
for name in akasha fuse.akasha; do ln -s "$1" "sbin/mount.$name"; done
mount --bind sbin "$(dirname "$(readlink -f /sbin/mount.fuse3)")"
for type in akasha fuse.akasha; do
    timeout 10 mount --fake -t "$type" -o "$password" vault "$point"
    if findmnt -M "$point"; then fail "a rehearsal mounted"; fi
    mount -t "$type" -o "noexec,$password" vault "$point"
    mount -o remount,ro "$point"
    has +ro +noexec +nosuid
    mount -o remount,rw,exec "$point"
    works +rw -noexec +nosuid +nodev
    table "$type"
    mount -T fstab "$point"
    mount -T fstab -o remount,ro "$point"
    works +ro +noexec +nosuid +nodev
done
