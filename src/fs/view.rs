//! What a mount shows of owners, modes and access times, where `-o` asks for something else than the vault has.

use crate::format::EntryKind;
use crate::store::{Attr, SetAttr};

use super::{FsError, Result};

/// See the module's text. By default everything is shown as it is, and reading moves access times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Everything is shown as this user's (`uid=`).
    pub uid: Option<u32>,
    /// Everything is shown as this group's (`gid=`).
    pub gid: Option<u32>,
    /// Permission bits that nothing but a directory shows (`fmask=`, `umask=`).
    pub file_mask: u32,
    /// Permission bits that no directory shows (`dmask=`, `umask=`).
    pub dir_mask: u32,
    /// Reading moves no access time (`noatime`).
    pub no_atime: bool,
    /// Reading a directory moves none (`nodiratime`).
    pub no_dir_atime: bool,
}

impl View {
    fn mask(&self, kind: EntryKind) -> u32 {
        match kind {
            EntryKind::Dir => self.dir_mask,
            // The mode of a link means nothing.
            EntryKind::Symlink => 0,
            EntryKind::File
            | EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => self.file_mask,
        }
    }

    /// The attributes as the mount shows them.
    pub(super) fn show(&self, attr: Attr) -> Attr {
        Attr {
            uid: self.uid.unwrap_or(attr.uid),
            gid: self.gid.unwrap_or(attr.gid),
            mode: attr.mode & !self.mask(attr.kind),
            ..attr
        }
    }

    /// A change that was asked of what is shown, as a change of what the vault has, which is `now`. An owner that is shown
    /// whatever the vault has can be given again, and no other; bits that are not shown stay as they are.
    ///
    /// # Errors
    /// [`FsError::NotPermitted`].
    pub(super) fn unshow(
        &self,
        change: SetAttr,
        now: impl FnOnce() -> Result<Attr>,
    ) -> Result<SetAttr> {
        if self.uid.is_none() && self.gid.is_none() && self.file_mask | self.dir_mask == 0 {
            return Ok(change);
        }
        let now = now()?;
        let owner = |shown: Option<u32>, asked: Option<u32>| match (shown, asked) {
            (Some(shown), Some(asked)) if shown != asked => Err(FsError::NotPermitted),
            (Some(_), _) => Ok(None),
            (None, asked) => Ok(asked),
        };
        let mask = self.mask(now.kind);
        Ok(SetAttr {
            uid: owner(self.uid, change.uid)?,
            gid: owner(self.gid, change.gid)?,
            mode: change.mode.map(|mode| mode & !mask | now.mode & mask),
            ..change
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;
    use crate::format::EntryId;

    fn attr(kind: EntryKind, mode: u32) -> Attr {
        let time = Timestamp::default();
        Attr {
            id: EntryId::ROOT,
            kind,
            size: 0,
            blocks_512: 0,
            mode,
            nlink: 1,
            uid: 5,
            gid: 6,
            rdev: 0,
            atime: time,
            mtime: time,
            ctime: time,
        }
    }

    #[test]
    fn masks_hide_bits_and_a_change_leaves_the_hidden_ones() {
        let view = View { file_mask: 0o137, dir_mask: 0o027, ..View::default() };
        assert_eq!(view.show(attr(EntryKind::File, 0o4755)).mode, 0o4640);
        assert_eq!(view.show(attr(EntryKind::Dir, 0o755)).mode, 0o750);
        assert_eq!(view.show(attr(EntryKind::Symlink, 0o777)).mode, 0o777);
        let change = SetAttr { mode: Some(0o600), ..SetAttr::default() };
        let meant = view.unshow(change, || Ok(attr(EntryKind::File, 0o755))).unwrap();
        assert_eq!(meant.mode, Some(0o715));
    }

    #[test]
    fn a_forced_owner_can_be_given_again_and_no_other() {
        let view = View { uid: Some(1000), ..View::default() };
        let shown = view.show(attr(EntryKind::File, 0o644));
        assert_eq!((shown.uid, shown.gid), (1000, 6));
        let chown = |uid, gid| {
            let change = SetAttr { uid: Some(uid), gid: Some(gid), ..SetAttr::default() };
            view.unshow(change, || Ok(attr(EntryKind::File, 0o644)))
        };
        let meant = chown(1000, 7).unwrap();
        assert_eq!((meant.uid, meant.gid), (None, Some(7)));
        assert!(matches!(chown(5, 7), Err(FsError::NotPermitted)));
    }
}
