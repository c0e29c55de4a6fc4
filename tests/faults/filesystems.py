"""A vault on every kind of filesystem that this machine can mount: what that filesystem offers, and that a vault on it works.

usage: filesystems.py AKASHA [FILESYSTEM]...

Prints a row for each of what its filesystem can do (the table of docs/DURABILITY.md). Everything is done through a mount, what was
synced is found after the daemon was killed, all of it after a clean end, and `akasha check` finds nothing.
"""

import ctypes
import errno
import os
import pathlib
import signal
import sys
import tempfile

from common import Place, Vault, file_with, fsync, noise, run

DISK_MIB = 320
NOREPLACE, EXCHANGE = 1, 2
KEEP_SIZE, PUNCH_HOLE = 1, 2
LONG = "long-" + "n" * 240
libc = ctypes.CDLL(None, use_errno=True)


def rename(old, new, flags):
    if libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(old))


def image(place, kind):
    return place.disk(kind, DISK_MIB)


def mounted(place, kind, *command):
    """A directory on which `command` mounts something."""
    at = place.dir / kind
    at.mkdir(exist_ok=True)
    run(*command, at)
    place.ends.append(lambda: run("umount", "-l", at, ok=False))
    return at


def tmpfs(place, kind):
    return mounted(place, kind, "mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "akasha-faults")


def below(place, *names):
    """Directories of the machine's own disk, without a space in their path: options are made of it."""
    made = [place.plain / name for name in names]
    for path in made:
        path.mkdir()
    return made


def overlay(place, kind, *under):
    lower, upper, work = under or below(place, "lower", "upper", "work")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    return mounted(place, kind, "mount", "-t", "overlay", "-o", options, "akasha-faults")


def overlay_on_btrfs(place, kind):
    disk = place.dir / "btrfs"
    if not disk.exists():
        image(place, "btrfs")
    under = [disk / name for name in ("lower", "upper", "work")]
    for path in under:
        path.mkdir(exist_ok=True)
    return overlay(place, kind, *under)


def bindfs(place, kind):
    (under,) = below(place, "under")
    return mounted(place, kind, "bindfs", under)


def sshfs(place, kind):
    (under,) = below(place, "remote")
    server = place.plain / "sftp"
    server.write_text("#!/bin/sh\nexec /usr/lib/openssh/sftp-server\n", encoding="utf-8")
    server.chmod(0o700)
    options = f"ssh_command={server}" + (",disable_hardlink" if "without" in kind else "")
    return mounted(place, kind, "sshfs", "-o", options, f"nowhere:{under}")


FILESYSTEMS = {
    "ext4": image, "xfs": image, "btrfs": image, "tmpfs": tmpfs, "overlayfs": overlay,
    "overlayfs on btrfs": overlay_on_btrfs, "bindfs": bindfs, "sshfs": sshfs, "sshfs without links": sshfs,
}
# Those on a disk of their own, whose power can be cut, and what is on that.
DISKS = {"ext4": "ext4", "xfs": "xfs", "btrfs": "btrfs", "overlayfs on btrfs": "btrfs"}


def offers(at):
    """What the filesystem can do, by trying."""
    a, b = at / "probe a", at / "probe b"
    file_with(a, b"a")
    file_with(b, b"b")

    def can(step):
        try:
            step()
            return True
        except OSError as error:
            assert error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM), error
            return False

    def links():
        for count, name in [(2, "probe d"), (3, "probe e")]:
            os.stat(b)
            os.link(b, at / name)
            if os.stat(b).st_nlink != count:
                raise OSError(errno.EPERM, "not counted, or not at once")

    told = {
        "exchange": can(lambda: rename(a, b, EXCHANGE)),
        "no-replace": can(lambda: rename(a, at / "probe c", NOREPLACE)),
        "hard links": can(links),
        "attributes": can(lambda: os.setxattr(b, "user.probe", b"x")),
    }
    for path in at.glob("probe *"):
        path.unlink()
    return told


class Work:
    """What is done in a mount, and what it must show."""

    def __init__(self, vault, told):
        self.at, self.told = vault.at, told
        self.content, self.attributes = {}, {}

    def save(self, name, data):
        file_with(self.at / name, data)
        self.content[name] = data

    def change(self, name, offset, data):
        """A few bytes of a large file, durably: a layer over what is there."""
        descriptor = os.open(self.at / name, os.O_WRONLY)
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
        os.close(descriptor)
        old = self.content[name]
        self.content[name] = old[:offset] + data + old[offset + len(data):]

    def unless(self, offered, refusal, step):
        """Done if the filesystem below offers it, else refused as the manual page says."""
        if self.told[offered]:
            step()
            return True
        try:
            step()
        except OSError as error:
            assert error.errno == refusal, error
            return False
        raise AssertionError(f"no {offered} below, and it was done")

    def sync_dir(self, name):
        fsync(self.at / name)

    def everything(self):
        content = self.content
        os.mkdir(self.at / "d")
        self.save("small", noise(1, 3000))
        self.save("large", noise(2, 4 << 20))
        for turn in range(6):
            self.change("large", 500_000 * turn + 77, noise(10 + turn, 900))
        self.save(LONG, noise(3, 100))
        self.save("d/other", noise(4, 70_000))
        # Over what is there, with a whole new version and by a rename.
        self.save("small", noise(5, 2000))
        self.save("new", noise(6, 5000))
        os.rename(self.at / "new", self.at / "d/other")
        content["d/other"] = content.pop("new")
        rename(self.at / "small", self.at / "d/other", EXCHANGE)
        content["small"], content["d/other"] = content["d/other"], content["small"]
        try:
            rename(self.at / "small", self.at / "large", NOREPLACE)
            raise AssertionError("NOREPLACE replaced")
        except FileExistsError:
            pass
        if self.unless("hard links", errno.EPERM, lambda: os.link(self.at / "large", self.at / "d/second")):
            content["d/second"] = content["large"]
            self.change("large", 1234, b"by one name")
            content["d/second"] = content["large"]
            assert os.stat(self.at / "d/second").st_nlink == 2
        for name, size in [("user.small", 20), ("user.large", 40_000)]:
            value = noise(size, size)
            if self.unless("attributes", errno.EOPNOTSUPP, lambda: os.setxattr(self.at / "small", name, value)):
                self.attributes[name] = value
        os.symlink("d/other", self.at / "link")
        self.save("holes", bytes(300_000) + b"end")
        descriptor = os.open(self.at / "large", os.O_RDWR)
        libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
        assert libc.fallocate(descriptor, KEEP_SIZE | PUNCH_HOLE, 8192, 65536) == 0, os.strerror(ctypes.get_errno())
        os.fsync(descriptor)
        os.close(descriptor)
        for name in ["large", "d/second"]:
            if name in content:
                content[name] = content[name][:8192] + bytes(65536) + content[name][8192 + 65536:]
        self.save("gone", b"gone")
        os.unlink(self.at / "gone")
        del content["gone"]
        for name in [".", "d", "small", "large"]:
            self.sync_dir(name)

    def verify(self, when):
        shown = {str(path.relative_to(self.at)) for path in self.at.rglob("*") if path.is_file() and not path.is_symlink()}
        assert shown == set(self.content), f"{when}: {sorted(shown ^ set(self.content))}"
        for name, data in self.content.items():
            assert (self.at / name).read_bytes() == data, f"{when}: {name} is not as it was"
        for name, value in self.attributes.items():
            assert os.getxattr(self.at / "small", name) == value, f"{when}: {name}"
        assert os.readlink(self.at / "link") == "d/other", when


MOVED = ["moved", "moved and synced", "moved and removed"]


def move_through(at, elsewhere):
    """Files move through a directory, which is then synced: nothing is left there.

    On btrfs an fsync of it is not enough (Linux 6.18): they come back after a cut, if their inodes were synced, the directory
    was not while they were there, and a hundred changes elsewhere have brought their entries into the filesystem's tree meanwhile.
    """
    old, between, new = at / "old", at / "between", at / "new"
    for path in (old, between, new, elsewhere):
        path.mkdir(parents=True)
    run("sync", "--file-system", elsewhere)
    for name in MOVED:
        file_with(old / name, name.encode())
        os.rename(old / name, between / name)
    for number in range(200):
        file_with(elsewhere / str(number), b"", sync=False)
    for name in MOVED:
        os.rename(between / name, new / name)
    # In this order: the vault makes a chain of moves that nobody synced durable in another way.
    fsync(between)
    fsync(new / MOVED[1])
    os.unlink(new / MOVED[2])
    fsync(new)


def cut_after_moves(place, kind, vault, under):
    """Cuts the power after such moves in the vault, then after some beside it. Returns what came back beside it."""

    def cut(let_go):
        if kind == DISKS[kind]:
            place.cut(kind, let_go)
        else:
            place.cut(DISKS[kind], lambda: (let_go(), run("umount", under)))
            FILESYSTEMS[kind](place, kind)

    assert vault.start(), vault.said()
    # One after the other: the second begins with a sync of everything.
    move_through(vault.at, under / "elsewhere")
    cut(vault.umount)
    assert vault.start(), vault.said()
    shown = sorted(f"{path.parent.name}/{path.name}" for at in ("old", "between", "new") for path in (vault.at / at).iterdir())
    assert shown == [f"new/{name}" for name in MOVED[:2]], f"{kind}, after a cut: {shown}"
    assert all((vault.at / "new" / name).read_bytes() == name.encode() for name in MOVED[:2]), f"{kind}, after a cut: not as they were"
    vault.umount()
    vault.check()
    move_through(under / "beside", under / "elsewhere too")
    cut(lambda: None)
    return sorted(os.listdir(under / "beside" / "between"))


def check(akasha, kind, cuts):
    with Place(akasha) as place:
        place.plain = pathlib.Path(tempfile.mkdtemp(prefix="akasha-faults-", dir="/var/tmp"))
        place.ends.append(lambda: run("rm", "-rf", "--one-file-system", place.plain))
        under = FILESYSTEMS[kind](place, kind)
        told = offers(under)
        vault = Vault(place, under, ("--commit", "60"))
        assert vault.start(), vault.said()
        work = Work(vault, told)
        work.everything()
        work.verify(f"{kind}, at once")
        # What was synced does not need an end.
        vault.daemon.kill()
        vault.wait()
        vault.detach()
        assert vault.start(), vault.said()
        work.verify(f"{kind}, after a kill")
        work.save("more", noise(7, 200_000))
        work.change("large", 2_000_000, b"once more")
        if "d/second" in work.content:
            work.content["d/second"] = work.content["large"]
        vault.umount()
        assert vault.start(), vault.said()
        work.verify(f"{kind}, after an end")
        assert vault.is_alive(), vault.said()
        vault.umount()
        vault.check()
        if kind in DISKS:
            back = cut_after_moves(place, kind, vault, under)
            cuts.append(f"| {kind} | {', '.join(back) or 'none'} | none |")
        marks = " | ".join("yes" if told[name] else "no" for name in told)
        print(f"| {kind} | {marks} | works |", flush=True)


if __name__ == "__main__":
    # Nothing here may hang: the alarm ends what does.
    signal.alarm(600)
    print("| filesystem | exchange | no-replace | hard links | attributes | a vault on it |\n|---|---|---|---|---|---|")
    rows = []
    for wanted in sys.argv[2:] or FILESYSTEMS:
        check(sys.argv[1], wanted, rows)
    if rows:
        print("\n| names that a cut brings back into a synced directory | on the filesystem itself | on akasha |\n|---|---|---|")
        print("\n".join(rows))
