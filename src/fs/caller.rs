//! Who asks, and what a file made by them starts with.

use crate::store::{Attr, NewAttr};

/// Set-user-id bit.
pub(super) const S_ISUID: u32 = 0o4000;
/// Set-group-id bit.
pub(super) const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;
/// Permission, set-id and sticky bits.
pub(super) const PERMISSION_BITS: u32 = 0o7777;

/// The process behind a request, as the kernel gives it (fsuid and fsgid).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

impl Caller {
    /// Whether set-id bits survive this caller's truncation. The kernel asks CAP_FSETID; the protocol's
    /// answer to that (`FATTR_KILL_SUIDGID`) does not reach us, so being root stands for it.
    pub(super) fn keeps_set_id(self) -> bool {
        self.uid == 0
    }
}

/// The mode that mkdir(2), open(2) or mknod(2) asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewMode {
    /// Requested bits; the file type bits are ignored.
    pub mode: u32,
    /// Bits to take away. Where the kernel has done so already it does no harm to do it again.
    pub umask: u32,
}

impl NewMode {
    /// Attributes of a new object in a directory with the attributes `parent`: inode(7), "set-group-ID
    /// directory": group from the parent, and a directory hands the bit on.
    pub(super) fn inherit(self, caller: Caller, parent: &Attr, is_dir: bool) -> NewAttr {
        let mode = self.mode & !self.umask & PERMISSION_BITS;
        if parent.mode & S_ISGID == 0 {
            return NewAttr { mode, uid: caller.uid, gid: caller.gid };
        }
        let handed_down = if is_dir { S_ISGID } else { 0 };
        NewAttr { mode: mode | handed_down, uid: caller.uid, gid: parent.gid }
    }
}

/// `mode` after a write, a truncation or a change of owner: chown(2) and write(2) clear set-user-id,
/// and set-group-id where it means execution (without group execute it marks mandatory locking).
pub(super) fn without_set_id(mode: u32) -> u32 {
    let mode = mode & !S_ISUID;
    if mode & S_IXGRP == 0 { mode } else { mode & !S_ISGID }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::format::{EntryId, EntryKind};

    fn dir(mode: u32, gid: u32) -> Attr {
        let time = Timestamp::default();
        Attr {
            id: EntryId::ROOT,
            kind: EntryKind::Dir,
            size: 0,
            blocks_512: 0,
            mode,
            nlink: 2,
            uid: 7,
            gid,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn a_setgid_directory_hands_down_its_group_and_to_directories_the_bit() {
        let caller = Caller { uid: 1000, gid: 1000 };
        let asked = NewMode { mode: 0o100_666, umask: 0o022 };
        let plain = asked.inherit(caller, &dir(0o755, 5), false);
        assert_eq!(plain, NewAttr { mode: 0o644, uid: 1000, gid: 1000 });
        let file = asked.inherit(caller, &dir(0o2755, 5), false);
        assert_eq!(file, NewAttr { mode: 0o644, uid: 1000, gid: 5 });
        let sub = NewMode { mode: 0o777, umask: 0o027 }.inherit(caller, &dir(0o2755, 5), true);
        assert_eq!(sub, NewAttr { mode: 0o2750, uid: 1000, gid: 5 });
    }

    #[test]
    fn set_group_id_without_group_execute_stays() {
        assert_eq!(without_set_id(0o6755), 0o755);
        assert_eq!(without_set_id(0o6745), 0o2745);
        assert_eq!(without_set_id(0o1644), 0o1644);
    }
}
