//! One writer: the vault's lock, and who holds it.

use log::warn;

use crate::backing::{Backing, PublishedFile};

use super::core::StoreOptions;
use super::error::{Attempt, Result, StoreError};

/// The file that is locked; its text says who mounts, for people, and is never trusted.
const NAME: &[u8] = b"lock";
/// The longest note that is shown, in bytes.
const NOTE_LEN_MAX: u64 = 200;

/// Takes the vault's lock: alone to write, shared to read.
///
/// # Errors
/// `InUse` with the holder's note.
pub(crate) fn take<B: Backing>(
    backing: &B,
    control: &B::Dir,
    options: &StoreOptions,
) -> Result<Option<B::Lock>> {
    match backing.lock(control, NAME, !options.read_only) {
        Ok(lock) => {
            if !options.read_only
                && let Err(error) = backing.write_note(&lock, options.owner_note.as_bytes())
            {
                warn!("who mounts could not be noted: {error}");
            }
            Ok(Some(lock))
        }
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
            Err(StoreError::InUse(note(backing, control)))
        }
        // A vault on a read-only filesystem has no other writer than one that is not there.
        Err(error)
            if options.read_only
                && matches!(error.raw_os_error(), Some(libc::EROFS | libc::EACCES)) =>
        {
            Ok(None)
        }
        Err(error) => Err(error).attempt("lock the vault"),
    }
}

/// The holder's note, as far as it can be shown.
fn note<B: Backing>(backing: &B, control: &B::Dir) -> Option<String> {
    let file = backing.open(control, NAME).ok()?;
    let len = file.stat().ok()?.len.min(NOTE_LEN_MAX);
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_at(0, &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line: String = text.lines().next()?.chars().filter(|c| !c.is_control()).collect();
    (!line.is_empty()).then_some(line)
}

/// Opens a control directory; one that is missing is made again (a backup tool may skip empty directories).
pub(crate) fn control_subdir<B: Backing>(
    backing: &B,
    control: &B::Dir,
    name: &[u8],
    options: &StoreOptions,
) -> Result<B::Dir> {
    match backing.open_dir(control, name) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !options.read_only => {
            backing.mkdir(control, name, 0o700).attempt("make a control directory")?;
            backing.open_dir(control, name).attempt("open a control directory")
        }
        other => other.attempt("open a control directory"),
    }
}
