//! What can go wrong in the store. `fs` turns each into one errno.

use std::io;

use crate::format::FormatError;

/// A failed operation of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The name or object does not exist.
    #[error("no such entry")]
    NotFound,
    /// The name is taken.
    #[error("entry exists")]
    AlreadyExists,
    /// A directory was needed.
    #[error("not a directory")]
    NotADirectory,
    /// Anything but a directory was needed.
    #[error("is a directory")]
    IsADirectory,
    /// The directory still has entries.
    #[error("directory not empty")]
    NotEmpty,
    /// The name is longer than 255 bytes.
    #[error("name too long")]
    NameTooLong,
    /// The argument has no meaning here.
    #[error("invalid argument")]
    InvalidArgument,
    /// The operation is not offered for this kind of object.
    #[error("not supported")]
    NotSupported,
    /// There is no such extended attribute.
    #[error("no such attribute")]
    NoAttribute,
    /// The backing filesystem has no room for an extended attribute of this length, however much is free.
    #[error("extended attribute too big")]
    AttributeTooBig,
    /// The mount is read-only.
    #[error("mounted read-only")]
    ReadOnly,
    /// The file would pass the largest size that the format can hold.
    #[error("file too big")]
    FileTooBig,
    /// The vault is mounted by somebody else.
    #[error("the vault is in use{}", .0.as_deref().map(|w| format!(" by {w}")).unwrap_or_default())]
    InUse(Option<String>),
    /// Stored bytes do not authenticate or contradict each other.
    #[error("damaged {what}: {why}")]
    Damaged {
        /// The object, by its backing name or id; never a plaintext name.
        what: String,
        /// What does not hold.
        why: String,
    },
    /// Uncommitted changes of this file were lost to an earlier failed sync; they stay lost until
    /// the last handle is closed.
    #[error("uncommitted changes were lost to a failed sync")]
    Lost,
    /// A system call on the vault failed.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

/// The store's results.
pub type Result<T> = std::result::Result<T, StoreError>;

impl StoreError {
    /// Damage of `what` found by the format.
    pub(crate) fn damaged(what: impl Into<String>, why: &FormatError) -> Self {
        StoreError::Damaged { what: what.into(), why: why.to_string() }
    }

    /// Damage of `what`, described.
    pub(crate) fn broken(what: impl Into<String>, why: impl Into<String>) -> Self {
        StoreError::Damaged { what: what.into(), why: why.into() }
    }

    /// Whether the backing filesystem, or somebody's share of it, is full.
    pub(crate) fn is_full(&self) -> bool {
        let StoreError::Io { source, .. } = self else { return false };
        matches!(source.raw_os_error(), Some(libc::ENOSPC | libc::EDQUOT))
    }

    /// Whether it says nothing about the vault: this process or this machine has no descriptor or no memory left, for now.
    /// What such an error keeps from being read must not be taken for damage.
    pub(crate) fn is_passing(&self) -> bool {
        let StoreError::Io { source, .. } = self else { return false };
        matches!(
            source.raw_os_error(),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR | libc::EAGAIN)
        )
    }

    /// Whether the backing store says that the name is not there.
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            StoreError::NotFound => true,
            StoreError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Attaches what was attempted to a system call's error.
pub(crate) trait Attempt<T> {
    /// `what` names the step, never the plaintext.
    fn attempt(self, what: &'static str) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: &'static str) -> Result<T> {
        self.map_err(|source| StoreError::Io { what, source })
    }
}

/// An error with its causes, for a log line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
