"""The filesystems under a vault: how each is made and mounted, and what is tried of its options."""

import os
import subprocess
import time

SIZE = 384 << 20

MAKE = {
    # A small journal: it wraps, and its blocks are written back in place.
    "ext4": ["mkfs.ext4", "-q", "-b", "4096", "-J", "size=8", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-s", "size=4096"],
    "btrfs": ["mkfs.btrfs", "-q"],
}
# One is drawn for each round. Discards are not recorded, so none are asked for.
OPTIONS = {
    "ext4": ("noauto_da_alloc", "data=ordered", "data=writeback,noauto_da_alloc", "commit=1"),
    "xfs": ("noatime", "inode64"),
    "btrfs": ("nodiscard", "nodiscard,commit=1", "nodiscard,notreelog", "nodiscard,flushoncommit"),
}
# Pieces that a disk may keep or lose one by one. Sectors of 512 bytes are for ext4 alone: btrfs needs its superblock
# whole, and xfs does not repair a block of metadata whose first sector, with the log's number, is newer than the rest
# (seen: CRC errors of directory blocks when such a cut struck its recovery).
MODES = {
    "ext4": ("all", "none", "pages", "pages", "sectors"),
    "xfs": ("all", "none", "pages", "pages"),
    "btrfs": ("all", "none", "pages", "pages"),
}


def make(filesystem, image):
    with open(image, "wb") as file:
        file.truncate(SIZE)
    subprocess.run([*MAKE[filesystem], image], check=True, capture_output=True)


def mount(filesystem, options, image, at):
    command = ["mount", "-t", filesystem, "-o", f"loop,{options}", image, at]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def unmount(at, patience_s=30):
    """Unmounts when the last user has gone. The loop device goes with it."""
    begun_s = time.monotonic()
    while subprocess.run(["umount", at], capture_output=True, check=False).returncode != 0:
        if time.monotonic() - begun_s > patience_s:
            raise TimeoutError(f"{at} stays busy")
        time.sleep(0.01)


def loop_is_gone(image):
    """Whether no loop device holds the image any more: the kernel lets go of it after the unmount returned."""
    for device in os.listdir("/sys/block"):
        try:
            with open(f"/sys/block/{device}/loop/backing_file") as backing:
                if backing.read().strip().removesuffix(" (deleted)") == image:
                    return False
        except OSError:
            continue
    return True
