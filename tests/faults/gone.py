"""The disk under a mounted vault turns read-only, or goes away: clear errors, no hang, a clean unmount, nothing lost.

usage: gone.py AKASHA [CASE]...
"""

import errno
import os
import signal
import sys
import time

from common import Place, Vault, file_with, fsync, noise, run

DISK_MIB = 320
# What a write may be answered with once the disk takes none.
REFUSALS = {errno.EROFS, errno.EIO, errno.ESHUTDOWN if hasattr(errno, "ESHUTDOWN") else errno.EIO}
# akasha umount: everything committed before, or a call that failed.
UMOUNT_CODES = {1}


def abort(disk):
    """As after an error of the medium: ext4 takes no more writes, and goes on reading."""
    run("mount", "-o", "remount,abort", disk)


def shutdown(disk):
    """As when the cable is pulled: every call fails."""
    run("xfs_io", "-x", "-c", "shutdown", disk)


CASES = {
    "ext4 turned read-only": ("ext4", abort, True),
    "ext4 gone": ("ext4", shutdown, False),
    "xfs gone": ("xfs", shutdown, False),
}


def refused(what, step):
    """The step fails, and with an error that says so."""
    try:
        step()
    except OSError as error:
        assert error.errno in REFUSALS, f"{what}: answered with {error}"
        return
    raise AssertionError(f"{what}: answered with success")


def check(akasha, case):
    kind, strike, reads_on = CASES[case]
    with Place(akasha) as place:
        disk = place.disk(kind, DISK_MIB)
        vault = Vault(place, disk)
        assert vault.start(), vault.said()
        content = {"small": noise(1, 3000), "large": noise(2, 5 << 20), "cold": noise(3, 2 << 20)}
        for name, data in content.items():
            file_with(vault.at / name, data)
        os.mkdir(vault.at / "dir")
        fsync(vault.at)
        vault.umount()
        assert vault.start()
        for name in ["small", "large"]:
            assert (vault.at / name).read_bytes() == content[name]
        pending = os.open(vault.at / "large", os.O_RDWR)
        os.pwrite(pending, b"never durable", 4096)
        strike(disk)

        # What is in memory is read; what is not is read or refused, and never something else.
        assert (vault.at / "small").read_bytes() == content["small"]
        try:
            assert (vault.at / "cold").read_bytes() == content["cold"]
        except OSError as error:
            assert not reads_on and error.errno in REFUSALS, f"{case}: a read was answered with {error}"
        refused(f"{case}: fsync", lambda: os.fsync(pending))
        refused(f"{case}: fsync again", lambda: os.fsync(pending))
        try:
            os.close(pending)
        except OSError as error:
            assert error.errno in REFUSALS
        refused(f"{case}: a new file", lambda: file_with(vault.at / "new", noise(4, 70_000)))
        refused(f"{case}: mkdir", lambda: os.mkdir(vault.at / "another"))
        refused(f"{case}: rename", lambda: os.rename(vault.at / "small", vault.at / "dir/small"))
        refused(f"{case}: unlink", lambda: os.unlink(vault.at / "small"))
        refused(f"{case}: rmdir", lambda: os.rmdir(vault.at / "dir"))
        assert vault.is_alive(), vault.said()

        begun = time.monotonic()
        ended = run(vault.place.akasha, "umount", vault.at, ok=False)
        code = vault.wait()
        took = time.monotonic() - begun
        assert ended.returncode in UMOUNT_CODES, f"{case}: akasha umount: {ended.returncode}: {ended.stderr}"
        assert code == 1, f"{case}: the daemon ended with {code}: {vault.said()}"
        assert took < 60, f"{case}: the end took {took:.1f} s"
        assert "panicked" not in vault.said(), vault.said()
        assert not vault.is_mounted()

        # The disk is back.
        run("umount", "-l", disk)
        run("mount", "-o", "loop", place.dir / f"{kind}.img", disk)
        assert vault.start(), vault.said()
        shown = {name: (vault.at / name).read_bytes() for name in content}
        for name, data in content.items():
            changed = data[:4096] + b"never durable" + data[4096 + 13:]
            assert shown[name] in ([data, changed] if name == "large" else [data]), f"{case}: {name} is lost"
        vault.umount()
        vault.check()
        sentence = ended.stderr.strip().replace("\n", " / ")
        print(f"{case}: told, ended in {took:.1f} s, nothing lost; akasha umount: exit {ended.returncode}, {sentence}")


if __name__ == "__main__":
    # Nothing here may hang: the alarm ends what does.
    signal.alarm(300)
    for wanted in sys.argv[2:] or CASES:
        check(sys.argv[1], wanted)
