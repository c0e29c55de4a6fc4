//! The one place where an error becomes a number: what the system-call man pages promise for each
//! case, `EIO` for everything that the caller cannot have caused.

use crate::store::StoreError;

/// An error number of errno(3); never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(i32);

impl Errno {
    /// Input/output error: the answer to damage and to everything unexpected.
    pub const EIO: Errno = Errno(libc::EIO);
    /// The operation is not offered at all: the kernel remembers and stops asking.
    pub const ENOSYS: Errno = Errno(libc::ENOSYS);

    /// The number, positive.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// A refused or failed request.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The kernel named an inode that it was told of never, or has forgotten.
    #[error("unknown inode")]
    UnknownInode,
    /// The file lost its last name, and with it its content, after the kernel had looked it up: the kernel then looks the
    /// name up again.
    #[error("gone since it was looked up")]
    Gone,
    /// The kernel named a handle that is not open, or not open for this.
    #[error("bad handle")]
    BadHandle,
    /// The name is empty, `.`, `..`, or holds NUL or '/'.
    #[error("invalid name")]
    InvalidName,
    /// The arguments contradict each other.
    #[error("invalid argument")]
    InvalidArgument,
    /// A directory was named where open(2), read(2), ... want a file.
    #[error("is a directory")]
    IsADirectory,
    /// open(2) of a symbolic link itself.
    #[error("is a symbolic link")]
    IsASymlink,
    /// open(2) of a fifo, socket or device: the kernel opens those itself.
    #[error("no such device or address")]
    NoDevice,
    /// The filesystem does not hold nodes or links of this kind (mknod(2), link(2): `EPERM`).
    #[error("not permitted")]
    NotPermitted,
    /// A default access control list of anything but a directory (`EACCES`, as the kernel has it).
    #[error("access denied")]
    AccessDenied,
    /// An extended attribute's value is longer than any may be (setxattr(2)), or the list of all names.
    #[error("too big")]
    TooBig,
    /// The caller's buffer does not hold the answer (getxattr(2)), or a name is too long for it (setxattr(2)).
    #[error("out of range")]
    OutOfRange,
    /// The operation is not offered here.
    #[error("not supported")]
    NotSupported,
    /// ioctl(2) on something that is no terminal.
    #[error("inappropriate ioctl")]
    NotATerminal,
}

impl FsError {
    /// The number for the caller. No other place chooses one.
    pub fn errno(&self) -> Errno {
        Errno(match self {
            FsError::Store(error) => store_errno(error),
            FsError::UnknownInode | FsError::Gone => libc::ESTALE,
            FsError::BadHandle => libc::EBADF,
            FsError::InvalidName | FsError::InvalidArgument => libc::EINVAL,
            FsError::IsADirectory => libc::EISDIR,
            FsError::IsASymlink => libc::ELOOP,
            FsError::NoDevice => libc::ENXIO,
            FsError::NotPermitted => libc::EPERM,
            FsError::AccessDenied => libc::EACCES,
            FsError::TooBig => libc::E2BIG,
            FsError::OutOfRange => libc::ERANGE,
            FsError::NotSupported => libc::EOPNOTSUPP,
            FsError::NotATerminal => libc::ENOTTY,
        })
    }

    /// Whether this is a fault of the vault, the disk or the machine, worth a line in the log; the
    /// others are ordinary answers.
    pub fn is_fault(&self) -> bool {
        match self {
            FsError::Store(error) => store_fault(error),
            FsError::UnknownInode | FsError::BadHandle => true,
            FsError::Gone
            | FsError::InvalidName
            | FsError::InvalidArgument
            | FsError::IsADirectory
            | FsError::IsASymlink
            | FsError::NoDevice
            | FsError::NotPermitted
            | FsError::AccessDenied
            | FsError::TooBig
            | FsError::OutOfRange
            | FsError::NotSupported
            | FsError::NotATerminal => false,
        }
    }
}

/// The answer to a request about an inode: that nothing of it is there is not that a name is missing.
pub(super) fn of_inode<T>(answer: Result<T, StoreError>) -> Result<T, FsError> {
    answer.map_err(|error| match error {
        StoreError::NotFound => FsError::Gone,
        other => FsError::Store(other),
    })
}

fn store_errno(error: &StoreError) -> i32 {
    match error {
        StoreError::NotFound => libc::ENOENT,
        StoreError::AlreadyExists => libc::EEXIST,
        StoreError::NotADirectory => libc::ENOTDIR,
        StoreError::IsADirectory => libc::EISDIR,
        StoreError::NotEmpty => libc::ENOTEMPTY,
        StoreError::NameTooLong => libc::ENAMETOOLONG,
        StoreError::InvalidArgument => libc::EINVAL,
        StoreError::NotSupported => libc::EOPNOTSUPP,
        StoreError::NoAttribute => libc::ENODATA,
        StoreError::AttributeTooBig => libc::ERANGE,
        StoreError::ReadOnly => libc::EROFS,
        StoreError::FileTooBig => libc::EFBIG,
        StoreError::InUse(_) => libc::EBUSY,
        StoreError::Damaged { .. } | StoreError::Lost => libc::EIO,
        StoreError::Io { source, .. } => disk_errno(source.raw_os_error()),
    }
}

/// What the disk's answer means in the mount. Only what the caller can act on passes; a name that is
/// missing in the vault, say, is not a name missing in the mount.
fn disk_errno(raw: Option<i32>) -> i32 {
    match raw {
        Some(
            same @ (libc::ENOSPC
            | libc::EDQUOT
            | libc::EROFS
            | libc::ENOMEM
            | libc::EFBIG
            | libc::EACCES
            | libc::EPERM),
        ) => same,
        // The daemon's own limit: for the caller it is the system that has no more files.
        Some(libc::EMFILE | libc::ENFILE) => libc::ENFILE,
        Some(_) | None => libc::EIO,
    }
}

fn store_fault(error: &StoreError) -> bool {
    match error {
        StoreError::NotFound
        | StoreError::AlreadyExists
        | StoreError::NotADirectory
        | StoreError::IsADirectory
        | StoreError::NotEmpty
        | StoreError::NameTooLong
        | StoreError::InvalidArgument
        | StoreError::NotSupported
        | StoreError::NoAttribute
        | StoreError::AttributeTooBig
        | StoreError::ReadOnly
        | StoreError::FileTooBig => false,
        StoreError::InUse(_) | StoreError::Damaged { .. } | StoreError::Lost => true,
        StoreError::Io { source, .. } => {
            !matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io;

    use super::*;

    fn io_error(raw: i32) -> FsError {
        let source = io::Error::from_raw_os_error(raw);
        FsError::Store(StoreError::Io { what: "write a layer", source })
    }

    #[test]
    fn a_full_disk_is_enospc_and_no_fault() {
        let error = io_error(libc::ENOSPC);
        assert_eq!(error.errno().get(), libc::ENOSPC);
        assert!(!error.is_fault());
    }

    #[test]
    fn a_name_missing_in_the_vault_is_eio_in_the_mount() {
        for raw in [libc::ENOENT, libc::ENOTDIR, libc::EISDIR, libc::ELOOP, libc::EINVAL] {
            assert_eq!(io_error(raw).errno(), Errno::EIO);
            assert!(io_error(raw).is_fault());
        }
        let unnumbered = StoreError::Io { what: "read", source: io::ErrorKind::Other.into() };
        assert_eq!(FsError::Store(unnumbered).errno(), Errno::EIO);
    }

    #[test]
    fn damage_is_eio_and_a_fault() {
        let error = FsError::Store(StoreError::Damaged {
            what: "layer 00".to_owned(),
            why: "tag does not match".to_owned(),
        });
        assert_eq!(error.errno(), Errno::EIO);
        assert!(error.is_fault());
    }
}
