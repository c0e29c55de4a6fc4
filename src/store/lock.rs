//! One writer: the vault's lock, who holds it, and whether the last one ended cleanly.

use std::sync::Arc;

use log::warn;

use crate::backing::{At, Backing, PublishedFile, TempFile};

use super::core::{ControlDirs, StoreOptions};
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

/// Says that the last mount committed and removed everything. Somebody who deletes or plants it makes a mount
/// look for orphans once more, or once less.
const CLEAN: &[u8] = b"clean";

/// Takes the mark of a clean end away; whether it was there. Durable before anything else changes.
pub(crate) fn begin<B: Backing>(backing: &B, control: &B::Dir) -> Result<bool> {
    match backing.unlink(control, CLEAN) {
        Ok(()) => {
            backing.sync_dir(control).attempt("sync .akasha")?;
            Ok(true)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).attempt("begin a mount"),
    }
}

/// Whether the mark of a clean end is there.
pub(crate) fn is_clean<B: Backing>(backing: &B, control: &B::Dir) -> bool {
    backing.stat(control, At::Name(CLEAN)).is_ok()
}

/// Leaves the mark of a clean end. Not worth an error: without it the next mount looks for orphans.
pub(crate) fn end<B: Backing>(backing: &B, control: &B::Dir) {
    let made = backing.create_temp(control, CLEAN, 0o600).and_then(|file| file.sync());
    if let Err(error) = made {
        warn!("the clean end of the mount could not be noted: {error}");
    }
}

/// The holder's note, as far as it can be shown.
pub(super) fn note<B: Backing>(backing: &B, control: &B::Dir) -> Option<String> {
    let file = backing.open(control, NAME).ok()?;
    let len = file.stat().ok()?.len.min(NOTE_LEN_MAX);
    let mut bytes = vec![0; usize::try_from(len).ok()?];
    file.read_at(0, &mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let line: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    (!line.is_empty()).then_some(line)
}

/// Opens the control directories.
pub(crate) fn control_dirs<B: Backing>(
    backing: &B,
    root: Arc<B::Dir>,
    control: B::Dir,
    options: &StoreOptions,
) -> Result<ControlDirs<B>> {
    Ok(ControlDirs {
        tmp: control_subdir(backing, &control, b"tmp", options)?,
        layers: control_subdir(backing, &control, b"layers", options)?,
        inodes: control_subdir(backing, &control, b"inodes", options)?,
        xattrs: control_subdir(backing, &control, b"xattrs", options)?,
        root,
        control,
    })
}

/// Opens a control directory; one that is missing is made again (a backup tool may skip empty directories), durable once the mount
/// has begun: with [`begin`] or, after an unclean end, with all names. Where nothing may
/// be made, `.akasha` itself stands for it: it holds none of its files either, and nothing is changed there.
fn control_subdir<B: Backing>(
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
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let root = backing.root().attempt("open the vault")?;
            backing.open_dir(&root, super::CONTROL_DIR).attempt("open .akasha")
        }
        other => other.attempt("open a control directory"),
    }
}
