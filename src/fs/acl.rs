//! POSIX access control lists (acl(5)), as the kernel's xattrs hold them: what they mean for permission bits, and what new
//! objects inherit. The kernel enforces them; keeping list and bits together is the filesystem's part.
//!
//! Layout (include/uapi/linux/posix_acl_xattr.h): version 2 as u32, then entries of tag u16, permissions u16, id u32, little
//! endian.

use super::{FsError, Result};

/// The xattr of the list that is enforced.
pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
/// The xattr of the list that new objects in a directory get.
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_LEN: usize = 4;
const ENTRY_LEN: usize = 8;
/// The id of entries that name nobody.
const NOBODY: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
enum Tag {
    Owner = 1,
    User = 2,
    OwningGroup = 4,
    Group = 8,
    Mask = 16,
    Other = 32,
}

impl Tag {
    const ALL: [Tag; 6] =
        [Tag::Owner, Tag::User, Tag::OwningGroup, Tag::Group, Tag::Mask, Tag::Other];

    fn names_somebody(self) -> bool {
        matches!(self, Tag::User | Tag::Group)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    /// 0..=7.
    permissions: u16,
    id: u32,
}

/// A list, in the order that acl(5) asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl {
    entries: Vec<Entry>,
}

impl Acl {
    /// Reads an xattr's value; `None` for a list without entries, which stands for no list.
    ///
    /// # Errors
    /// [`FsError::InvalidArgument`] for anything that the kernel would not make: another version, entries out of order or
    /// missing, a list with named entries and no mask.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>> {
        let (version, rest) = bytes.split_first_chunk().ok_or(FsError::InvalidArgument)?;
        if u32::from_le_bytes(*version) != VERSION {
            return Err(FsError::NotSupported);
        }
        if !rest.len().is_multiple_of(ENTRY_LEN) {
            return Err(FsError::InvalidArgument);
        }
        let entries = rest.chunks_exact(ENTRY_LEN).map(parse_entry).collect::<Result<Vec<_>>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        let acl = Acl { entries };
        if acl.is_valid() { Ok(Some(acl)) } else { Err(FsError::InvalidArgument) }
    }

    fn is_valid(&self) -> bool {
        let tags: Vec<Tag> = self.entries.iter().map(|entry| entry.tag).collect();
        let count = |tag| tags.iter().filter(|found| **found == tag).count();
        let named = tags.iter().any(|tag| tag.names_somebody());
        tags.is_sorted_by_key(|tag| *tag as u16)
            && [Tag::Owner, Tag::OwningGroup, Tag::Other].map(count) == [1, 1, 1]
            && count(Tag::Mask) <= 1
            && (!named || count(Tag::Mask) == 1)
    }

    /// The xattr's value.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.entries.len() * ENTRY_LEN);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        for entry in &self.entries {
            bytes.extend_from_slice(&(entry.tag as u16).to_le_bytes());
            bytes.extend_from_slice(&entry.permissions.to_le_bytes());
            bytes.extend_from_slice(&entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether permission bits say all that the list says.
    pub fn is_mode(&self) -> bool {
        self.entries.iter().all(|entry| !entry.tag.names_somebody() && entry.tag != Tag::Mask)
    }

    /// The permission bits (0o777) that stand for the list: those of the group class are the mask's, if there is one.
    pub fn mode(&self) -> u32 {
        let of = |tag| self.entries.iter().find(|entry| entry.tag == tag);
        let bits = |entry: Option<&Entry>| entry.map_or(0, |entry| u32::from(entry.permissions));
        let group = of(Tag::Mask).or(of(Tag::OwningGroup));
        bits(of(Tag::Owner)) << 6 | bits(group) << 3 | bits(of(Tag::Other))
    }

    /// The list after a chmod(2) to `mode`.
    pub fn with_mode(mut self, mode: u32) -> Self {
        let group = if self.entries.iter().any(|entry| entry.tag == Tag::Mask) {
            Tag::Mask
        } else {
            Tag::OwningGroup
        };
        for entry in &mut self.entries {
            let shift = match entry.tag {
                Tag::Owner => 6,
                Tag::Other => 0,
                tag if tag == group => 3,
                _ => continue,
            };
            entry.permissions = (mode >> shift & 7) as u16;
        }
        self
    }

    /// The list of a new object that asks for `mode` in a directory whose default list this is; its permission bits are the
    /// list's own. The umask does not count.
    pub fn inherited(self, mode: u32) -> Self {
        let limit = self.mode() & mode;
        self.with_mode(limit)
    }
}

fn parse_entry(bytes: &[u8]) -> Result<Entry> {
    let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let tag = Tag::ALL.into_iter().find(|tag| *tag as u16 == half(0));
    let (tag, permissions) = (tag.ok_or(FsError::InvalidArgument)?, half(2));
    let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    if permissions > 7 || (tag.names_somebody() && id == NOBODY) {
        return Err(FsError::InvalidArgument);
    }
    Ok(Entry { tag, permissions, id: if tag.names_somebody() { id } else { NOBODY } })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn bytes(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }

    fn acl(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::parse(&bytes(entries)).unwrap().unwrap()
    }

    const ANY: u32 = u32::MAX;

    #[test]
    fn three_entries_are_a_mode() {
        let plain = acl(&[(1, 6, ANY), (4, 4, ANY), (32, 0, ANY)]);
        assert!(plain.is_mode());
        assert_eq!(plain.mode(), 0o640);
        let named = acl(&[(1, 7, ANY), (2, 6, 1000), (4, 7, ANY), (16, 5, ANY), (32, 1, ANY)]);
        assert!(!named.is_mode());
        assert_eq!(named.mode(), 0o751);
        assert_eq!(
            named.to_bytes(),
            bytes(&[(1, 7, ANY), (2, 6, 1000), (4, 7, ANY), (16, 5, ANY), (32, 1, ANY)])
        );
    }

    #[test]
    fn what_the_kernel_would_not_make_is_refused() {
        let three = [(1, 6, ANY), (4, 4, ANY), (32, 0, ANY)];
        for wrong in [
            &three[1..],
            &three[..2],
            &[three[1], three[0], three[2]],
            &[three[0], three[0], three[1], three[2]],
            &[(1, 8, ANY), three[1], three[2]],
            // Named, without a mask; a name of nobody; two masks; an unknown tag.
            &[three[0], (2, 6, 5), three[1], three[2]],
            &[three[0], (2, 6, ANY), three[1], (16, 7, ANY), three[2]],
            &[three[0], three[1], (16, 7, ANY), (16, 7, ANY), three[2]],
            &[three[0], three[1], (64, 7, ANY), three[2]],
        ] {
            assert!(Acl::parse(&bytes(wrong)).is_err(), "{wrong:?}");
        }
        let whole = bytes(&three);
        for len in [0, 3, 5, whole.len() - 1] {
            assert!(Acl::parse(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(Acl::parse(&1_u32.to_le_bytes()).is_err());
        assert_eq!(Acl::parse(&2_u32.to_le_bytes()).unwrap(), None);
    }

    #[test]
    fn chmod_changes_the_mask_where_there_is_one() {
        let named = acl(&[(1, 7, ANY), (4, 5, ANY), (8, 7, 100), (16, 7, ANY), (32, 0, ANY)]);
        let changed = named.with_mode(0o100_641);
        assert_eq!(
            changed,
            acl(&[(1, 6, ANY), (4, 5, ANY), (8, 7, 100), (16, 4, ANY), (32, 1, ANY)])
        );
        assert_eq!(changed.mode(), 0o641);
        let plain = acl(&[(1, 7, ANY), (4, 7, ANY), (32, 7, ANY)]).with_mode(0o421);
        assert_eq!(plain.mode(), 0o421);
    }

    #[test]
    fn a_new_object_gets_no_more_than_it_asked_for() {
        // posix_acl_create: each class is cut by the bits that were asked for, the group class at the mask.
        let default = acl(&[(1, 7, ANY), (2, 7, 1000), (4, 5, ANY), (16, 6, ANY), (32, 4, ANY)]);
        let file = default.clone().inherited(0o666);
        assert_eq!(
            file,
            acl(&[(1, 6, ANY), (2, 7, 1000), (4, 5, ANY), (16, 6, ANY), (32, 4, ANY)])
        );
        assert_eq!(file.mode(), 0o664);
        assert_eq!(default.inherited(0o700).mode(), 0o700);
        let plain = acl(&[(1, 7, ANY), (4, 5, ANY), (32, 0, ANY)]).inherited(0o666);
        assert_eq!((plain.mode(), plain.is_mode()), (0o640, true));
    }
}
