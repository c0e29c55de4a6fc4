#!/usr/bin/env bash
# allow_root on the mount of an ordinary user, in the current directory and a mount namespace of its own.
set -euo pipefail
place=$(mktemp -d /tmp/akasha-allow-root-XXXXXX)
trap 'umount -l "$place/plain" 2>/dev/null || true; rm -rf "$place"' EXIT
cp "$1" "$place/akasha"
cp password "$place/password"
cp -a vault "$place/vault"
mkdir "$place/plain"
chmod 755 "$place"
chown -R 65534:65534 "$place"
# /dev/fuse is for everybody, as udev makes it, and its users may let others in.
mknod "$place/fuse" c 10 229
chmod 666 "$place/fuse"
mount --bind "$place/fuse" /dev/fuse
echo user_allow_other >"$place/fuse.conf"
[ -e /etc/fuse.conf ] || : >/etc/fuse.conf
mount --bind "$place/fuse.conf" /etc/fuse.conf
cd "$place"
as() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
for how in allow_root allow_other none; do
    as 65534 ./akasha mount vault plain --password-file password -o "noatime,$how" 2>/dev/null ||
        as 65534 ./akasha mount vault plain --password-file password
    as 65534 sh -c 'echo content >plain/file; chmod 644 plain/file'
    as 65534 chmod 755 plain
    for who in 0 65534 65533; do
        if [ "$(as $who cat plain/file 2>/dev/null)" = content ]; then seen=yes; else seen=no; fi
        case $how-$who in
        *-65534 | allow_root-0 | allow_other-*) expected=yes ;;
        *) expected=no ;;
        esac
        if [ $seen != $expected ]; then
            echo "$how: user $who: $seen instead of $expected" >&2
            exit 1
        fi
    done
    # root's rights in it are root's: whatever the modes say, and files of its own need a daemon that may give them.
    if [ $how = allow_root ]; then
        as 65534 sh -c 'echo secret >plain/secret; chmod 600 plain/secret'
        [ "$(cat plain/secret)" = secret ]
        as 65534 sh -c 'sync plain/secret; rm plain/secret'
    fi
    as 65534 ./akasha umount plain
done
