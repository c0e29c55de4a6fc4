//! `vault.toml` and the skeleton around it, on the disk: made whole or not at all, read, replaced.
//! What the bytes of `vault.toml` mean is `format`'s business; nothing here knows a key.
//!
//! # A vault appears in one step
//! Everything is built in `.akasha.new`, synced from the leaves up, and renamed to `.akasha`: that rename is the
//! birth of the vault. A crash before it leaves `.akasha.new`, which the next [`create`] takes over. The lock file
//! of the skeleton is locked while it is built and goes along with the rename, so that two creators cannot mix.
//!
//! # The password changes in one step
//! The new `vault.toml` is written beside the old one, synced, renamed over it. The temporary is locked from before the
//! old content is read, so that of two changes at once none is lost.

use std::io;

use crate::backing::{Backing, FileKind, PublishedFile, RenameMode, TempFile};

/// The control directory.
pub const CONTROL_DIR: &[u8] = b".akasha";
/// The control directory while it is being built.
const CONTROL_DIR_NEW: &[u8] = b".akasha.new";
/// The configuration.
pub const CONFIG_FILE: &[u8] = b"vault.toml";
/// The next configuration while it is being written.
const CONFIG_FILE_NEW: &[u8] = b"vault.toml.new";
/// Locked by who mounts.
pub const LOCK_FILE: &[u8] = b"lock";
/// Directories of the skeleton.
const SUBDIRS: [&[u8]; 4] = [b"tmp", b"layers", b"inodes", b"xattrs"];

/// Longest `vault.toml`, in bytes.
pub const CONFIG_MAX_LEN: u64 = 64 << 10;

const DIR_MODE: u32 = 0o700;
const CONFIG_MODE: u32 = 0o600;

/// Why a vault's configuration cannot be made, read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    /// There is no `.akasha/vault.toml`.
    #[error("not a vault")]
    NotAVault,
    /// There is a vault already.
    #[error("a vault already")]
    Exists,
    /// The directory holds something that is not ours.
    #[error("the directory is not empty")]
    NotEmpty,
    /// Somebody else is making the vault or changing its configuration.
    #[error("the vault is being changed by another process")]
    Busy,
    /// What is there cannot be a vault's.
    #[error("{0}")]
    Damaged(&'static str),
    /// A system call failed.
    #[error("{what}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

type Result<T> = std::result::Result<T, VaultError>;

trait Attempt<T> {
    fn attempt(self, what: &'static str) -> Result<T>;
}

impl<T> Attempt<T> for io::Result<T> {
    fn attempt(self, what: &'static str) -> Result<T> {
        self.map_err(|source| VaultError::Io { what, source })
    }
}

/// Whether [`create`] can make a vault in the directory of `backing`.
///
/// # Errors
/// [`VaultError::Exists`], [`VaultError::NotEmpty`]; `Io`.
pub fn check_vacant<B: Backing>(backing: &B) -> Result<()> {
    let root = backing.root().attempt("open the vault's directory")?;
    let names = backing.list(&root).attempt("list the vault's directory")?;
    if names.iter().any(|entry| entry.name == CONTROL_DIR) {
        return Err(VaultError::Exists);
    }
    if names.iter().any(|entry| entry.name != CONTROL_DIR_NEW || entry.kind != FileKind::Dir) {
        return Err(VaultError::NotEmpty);
    }
    Ok(())
}

/// Makes a vault with `config` as its `vault.toml`. Visible and durable on return, in one step; the directory's own
/// name is the caller's business.
///
/// # Errors
/// As [`check_vacant`]; [`VaultError::Busy`] if another process is doing the same.
pub fn create<B: Backing>(backing: &B, config: &[u8]) -> Result<()> {
    check_vacant(backing)?;
    let root = backing.root().attempt("open the vault's directory")?;
    match backing.mkdir(&root, CONTROL_DIR_NEW, DIR_MODE) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(VaultError::Io { what: "make the control directory", source }),
    }
    let control = match backing.open_dir(&root, CONTROL_DIR_NEW) {
        Ok(dir) => dir,
        // Another creator finished between our two calls.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VaultError::Busy),
        Err(source) => return Err(VaultError::Io { what: "open the control directory", source }),
    };
    let lock = lock_alone(backing, &control, LOCK_FILE)?;
    // The lock may be on a directory that its creator has renamed since: then it is a vault.
    if !exists(backing, &root, CONTROL_DIR_NEW)? {
        return Err(VaultError::Busy);
    }
    if let Err(error) = build(backing, &control, config) {
        // Best effort: what stays is taken over by the next attempt.
        let _ = clear(backing, &control);
        let _ = backing.unlink(&control, LOCK_FILE);
        let _ = backing.rmdir(&root, CONTROL_DIR_NEW);
        return Err(error);
    }
    // From here on nothing is taken back: the vault may be visible, and then it is whole.
    publish(backing, &root, CONTROL_DIR_NEW, CONTROL_DIR).attempt("publish the vault")?;
    backing.sync_dir(&root).attempt("sync the vault's directory")?;
    drop(lock);
    Ok(())
}

/// Fills the control directory, durably.
fn build<B: Backing>(backing: &B, control: &B::Dir, config: &[u8]) -> Result<()> {
    clear(backing, control)?;
    for name in SUBDIRS {
        backing.mkdir(control, name, DIR_MODE).attempt("make a control directory")?;
    }
    let file =
        backing.create_temp(control, CONFIG_FILE, CONFIG_MODE).attempt("create vault.toml")?;
    file.write_at(0, config).attempt("write vault.toml")?;
    file.sync().attempt("sync vault.toml")?;
    backing.sync_dir(control).attempt("sync the control directory")
}

/// Renames a directory without replacing anything. Where the filesystem cannot promise that, plain rename does: it
/// replaces a directory only if that is empty, and `.akasha` never is.
fn publish<B: Backing>(backing: &B, dir: &B::Dir, from: &[u8], to: &[u8]) -> io::Result<()> {
    match backing.rename(dir, from, dir, to, RenameMode::NoReplace) {
        Err(error) if is_unsupported(&error) => {
            backing.rename(dir, from, dir, to, RenameMode::Replace)
        }
        result => result,
    }
}

fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP))
}

/// Removes what an earlier attempt left, but for the lock file, which we hold.
fn clear<B: Backing>(backing: &B, control: &B::Dir) -> Result<()> {
    for entry in backing.list(control).attempt("list the unfinished vault")? {
        let removed = match entry.kind {
            _ if entry.name == LOCK_FILE => Ok(()),
            FileKind::Dir => backing.rmdir(control, &entry.name),
            FileKind::File | FileKind::Other => backing.unlink(control, &entry.name),
        };
        removed.attempt("remove what an unfinished init left")?;
    }
    Ok(())
}

/// The bytes of `vault.toml`, at most [`CONFIG_MAX_LEN`], of which nothing is believed yet.
///
/// # Errors
/// [`VaultError::NotAVault`] if it is not there; [`VaultError::Damaged`] if it is something else or too long.
pub fn read_config<B: Backing>(backing: &B) -> Result<Vec<u8>> {
    read_config_in(backing, &open_control(backing)?)
}

fn read_config_in<B: Backing>(backing: &B, control: &B::Dir) -> Result<Vec<u8>> {
    let file = match backing.open(control, CONFIG_FILE) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(VaultError::NotAVault),
        Err(error) if is_wrong_kind(&error) => {
            return Err(VaultError::Damaged("vault.toml is not a regular file"));
        }
        Err(source) => return Err(VaultError::Io { what: "open vault.toml", source }),
    };
    let len = file.stat().attempt("stat vault.toml")?.len;
    if len > CONFIG_MAX_LEN {
        return Err(VaultError::Damaged("vault.toml is longer than 64 KiB"));
    }
    if len == 0 {
        return Err(VaultError::Damaged("vault.toml is empty"));
    }
    let mut bytes = vec![0; usize::try_from(len).expect("at most 64 KiB")];
    file.read_at(0, &mut bytes).attempt("read vault.toml")?;
    Ok(bytes)
}

/// Why [`replace_config`] did not replace anything.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError<E> {
    /// The disk's side of it.
    #[error(transparent)]
    Vault(#[from] VaultError),
    /// The caller's change did not come about.
    #[error("{0}")]
    Change(E),
}

/// Replaces `vault.toml` by what `change` makes of its present bytes. Durable on return; a crash leaves the old or the
/// new one.
///
/// # Errors
/// What `change` gives; as [`read_config`]; [`VaultError::Busy`] if another process is doing the same.
pub fn replace_config<B: Backing, E>(
    backing: &B,
    change: impl FnOnce(&[u8]) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), ReplaceError<E>> {
    let control = open_control(backing)?;
    // Read once before the temporary appears, so that a directory which is no vault stays as it is.
    read_config_in(backing, &control)?;
    let lock = lock_alone(backing, &control, CONFIG_FILE_NEW)?;
    // The lock may be on a temporary that its owner has renamed since.
    if !exists(backing, &control, CONFIG_FILE_NEW)? {
        return Err(VaultError::Busy.into());
    }
    let replaced = replace_locked(backing, &control, change);
    if replaced.is_err() {
        let _ = backing.unlink(&control, CONFIG_FILE_NEW);
    }
    drop(lock);
    replaced
}

fn replace_locked<B: Backing, E>(
    backing: &B,
    control: &B::Dir,
    change: impl FnOnce(&[u8]) -> std::result::Result<Vec<u8>, E>,
) -> std::result::Result<(), ReplaceError<E>> {
    let old = read_config_in(backing, control)?;
    let new = change(&old).map_err(ReplaceError::Change)?;
    Ok(write_config(backing, control, &new)?)
}

/// Writes the locked temporary, syncs it and renames it over `vault.toml`.
fn write_config<B: Backing>(backing: &B, control: &B::Dir, bytes: &[u8]) -> Result<()> {
    let mode = crate::backing::AttrChange { mode: Some(CONFIG_MODE), ..Default::default() };
    let file = backing.open_temp(control, CONFIG_FILE_NEW).attempt("open the new vault.toml")?;
    file.set_len(0).attempt("empty the new vault.toml")?;
    file.set_attr(&mode).attempt("set the mode of the new vault.toml")?;
    file.write_at(0, bytes).attempt("write the new vault.toml")?;
    file.sync().attempt("sync the new vault.toml")?;
    backing
        .rename(control, CONFIG_FILE_NEW, control, CONFIG_FILE, RenameMode::Replace)
        .attempt("publish the new vault.toml")?;
    backing.sync_dir(control).attempt("sync the control directory")
}

/// Whether somebody holds the vault's lock in a way that conflicts with mounting it, read-write (`is_exclusive`) or
/// read-only. Locks it for that instant.
///
/// # Errors
/// [`VaultError::NotAVault`]; `Io`.
pub fn is_held<B: Backing>(backing: &B, is_exclusive: bool) -> Result<bool> {
    let control = open_control(backing)?;
    match backing.lock(&control, LOCK_FILE, is_exclusive) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        Err(source) => Err(VaultError::Io { what: "lock the vault", source }),
    }
}

/// Whether the last mount that wrote ended with everything committed. True where the vault cannot be looked at.
pub fn ended_cleanly<B: Backing>(backing: &B) -> bool {
    open_control(backing).map_or(true, |control| super::lock::is_clean(backing, &control))
}

/// What the lock file says about its holder: printable, one line; `None` if nothing. Written by whoever can write the
/// vault: for showing only.
pub fn lock_note<B: Backing>(backing: &B) -> Option<String> {
    super::lock::note(backing, &open_control(backing).ok()?)
}

fn open_control<B: Backing>(backing: &B) -> Result<B::Dir> {
    let root = backing.root().attempt("open the vault's directory")?;
    match backing.open_dir(&root, CONTROL_DIR) {
        Ok(control) => Ok(control),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(VaultError::NotAVault),
        Err(error) if is_wrong_kind(&error) => Err(VaultError::NotAVault),
        Err(source) => Err(VaultError::Io { what: "open the control directory", source }),
    }
}

fn lock_alone<B: Backing>(backing: &B, dir: &B::Dir, name: &[u8]) -> Result<B::Lock> {
    match backing.lock(dir, name, true) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(VaultError::Busy),
        Err(source) => Err(VaultError::Io { what: "lock the vault", source }),
    }
}

fn exists<B: Backing>(backing: &B, dir: &B::Dir, name: &[u8]) -> Result<bool> {
    match backing.stat(dir, crate::backing::At::Name(name)) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(source) => Err(VaultError::Io { what: "stat the unfinished change", source }),
    }
}

/// What the seam says of a thing that is there but not of the expected kind. EIO is a fifo or a device: no disk fails
/// to open so reliably that the difference matters here.
fn is_wrong_kind(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ELOOP | libc::ENOTDIR | libc::EISDIR))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::backing::{CallKind, CrashRule, OsDisk, SimDisk};

    fn disk() -> (tempfile::TempDir, OsDisk) {
        let dir = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(dir.path()).unwrap();
        (dir, disk)
    }

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// What a change that cannot fail is called with.
    fn replace(disk: &OsDisk, new: &[u8]) -> std::result::Result<(), ReplaceError<()>> {
        replace_config(disk, |_| Ok(new.to_vec()))
    }

    #[test]
    fn a_vault_is_made_read_and_changed() {
        let (dir, disk) = disk();
        assert!(matches!(read_config(&disk), Err(VaultError::NotAVault)));
        create(&disk, b"one").unwrap();
        assert_eq!(read_config(&disk).unwrap(), b"one");
        assert!(matches!(create(&disk, b"two"), Err(VaultError::Exists)));
        replace_config::<_, ()>(&disk, |old| Ok([old, b" more"].concat())).unwrap();
        assert_eq!(read_config(&disk).unwrap(), b"one more");
        let control = dir.path().join(".akasha");
        assert_eq!(names(&control), ["inodes", "layers", "lock", "tmp", "vault.toml", "xattrs"]);
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let (dir, disk) = disk();
        create(&disk, b"one").unwrap();
        let failed = replace_config(&disk, |_| Err("no"));
        assert!(matches!(failed, Err(ReplaceError::Change("no"))));
        assert_eq!(read_config(&disk).unwrap(), b"one");
        assert!(!dir.path().join(".akasha/vault.toml.new").exists());
    }

    #[test]
    fn what_a_crashed_change_left_is_written_over() {
        let (dir, disk) = disk();
        create(&disk, b"one").unwrap();
        let temporary = dir.path().join(".akasha/vault.toml.new");
        fs::write(&temporary, b"a longer half of a change").unwrap();
        replace(&disk, b"two").unwrap();
        assert_eq!(read_config(&disk).unwrap(), b"two");
        assert!(!temporary.exists());
    }

    #[test]
    fn a_directory_with_anything_in_it_is_left_alone() {
        let (dir, disk) = disk();
        fs::write(dir.path().join("letter"), b"x").unwrap();
        assert!(matches!(create(&disk, b"one"), Err(VaultError::NotEmpty)));
        assert!(matches!(replace(&disk, b"two"), Err(ReplaceError::Vault(VaultError::NotAVault))));
        assert_eq!(names(dir.path()), ["letter"]);
    }

    #[test]
    fn a_creator_at_work_is_not_disturbed() {
        let (dir, disk) = disk();
        let unfinished = dir.path().join(".akasha.new");
        fs::create_dir(&unfinished).unwrap();
        let lock = fs::File::create(unfinished.join("lock")).unwrap();
        lock.lock().unwrap();
        fs::write(unfinished.join("vault.toml"), b"theirs").unwrap();
        assert!(matches!(create(&disk, b"ours"), Err(VaultError::Busy)));
        assert_eq!(fs::read(unfinished.join("vault.toml")).unwrap(), b"theirs");
        // Once it has crashed, its work is taken over.
        drop(lock);
        create(&disk, b"ours").unwrap();
        assert_eq!(names(dir.path()), [".akasha"]);
        assert_eq!(read_config(&disk).unwrap(), b"ours");
    }

    #[test]
    fn a_configuration_of_the_wrong_kind_or_length_is_damage() {
        let (dir, disk) = disk();
        create(&disk, b"one").unwrap();
        let config = dir.path().join(".akasha/vault.toml");
        for bytes in [Vec::new(), vec![b'#'; 65_537]] {
            fs::write(&config, bytes).unwrap();
            assert!(matches!(read_config(&disk), Err(VaultError::Damaged(_))));
        }
        fs::write(&config, vec![b'#'; 65_536]).unwrap();
        assert_eq!(read_config(&disk).unwrap().len(), 65_536);
        fs::remove_file(&config).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", &config).unwrap();
        assert!(matches!(read_config(&disk), Err(VaultError::Damaged(_))));
    }

    #[test]
    fn who_holds_the_vault_is_seen_and_told_in_one_line() {
        let (dir, disk) = disk();
        create(&disk, b"one").unwrap();
        assert!(!is_held(&disk, true).unwrap());
        assert_eq!(lock_note(&disk), None);
        let path = dir.path().join(".akasha/lock");
        fs::write(&path, b"process 7\x1b[31m\nsecond line").unwrap();
        let lock = fs::File::open(&path).unwrap();
        lock.lock_shared().unwrap();
        assert!(is_held(&disk, true).unwrap());
        assert!(!is_held(&disk, false).unwrap());
        assert_eq!(lock_note(&disk).unwrap(), "process 7 [31m second line");
    }

    /// Every way in which a power cut after `operations` more calls of `work` can end: what `work` returned, and the disk
    /// that is found.
    fn cuts<T>(
        disk: impl Fn() -> SimDisk,
        work: impl Fn(&SimDisk) -> T,
        mut check: impl FnMut(&T, &SimDisk, &str),
    ) {
        for operations in 0.. {
            let disk = disk();
            disk.cut_at(disk.operations() + operations);
            let result = work(&disk);
            for rule in CrashRule::battery(disk.pending_changes(), 0..8) {
                let about = format!("cut after {operations} operations, {rule:?}");
                check(&result, &disk.crash(&rule), &about);
            }
            if !disk.is_off() {
                return;
            }
        }
    }

    /// A vault with all its parts.
    fn assert_whole(disk: &SimDisk, config: &[u8], about: &str) {
        assert_eq!(read_config(disk).unwrap(), config, "{about}");
        let paths: Vec<_> = disk.paths().into_iter().map(|(path, _, _)| path).collect();
        for name in ["tmp", "layers", "inodes", "xattrs"] {
            let path = format!(".akasha/{name}").into_bytes();
            assert!(paths.contains(&path), "no {name}: {about}");
        }
        assert!(!paths.iter().any(|path| path.starts_with(CONTROL_DIR_NEW)), "{about}");
    }

    #[test]
    fn a_power_cut_leaves_a_whole_vault_or_room_for_one() {
        let mut found = [0, 0];
        cuts(
            SimDisk::new,
            |disk| create(disk, b"config").is_ok(),
            |is_made, disk, about| match read_config(disk) {
                Ok(_) => {
                    found[1] += 1;
                    assert_whole(disk, b"config", about);
                }
                Err(VaultError::NotAVault) => {
                    found[0] += 1;
                    assert!(!is_made, "it was reported as made: {about}");
                    create(disk, b"again").unwrap_or_else(|error| panic!("{error:?}: {about}"));
                    assert_whole(disk, b"again", about);
                }
                Err(error) => panic!("{error:?}: {about}"),
            },
        );
        assert!(found.iter().all(|&count| count > 0), "both ends were seen: {found:?}");
    }

    #[test]
    fn a_power_cut_leaves_the_old_password_or_the_new_one() {
        let vault = || {
            let disk = SimDisk::new();
            create(&disk, b"old").unwrap();
            disk
        };
        let new = b"new, and longer than the old one";
        let change = |disk: &SimDisk| replace_config::<_, ()>(disk, |_| Ok(new.to_vec())).is_ok();
        let mut found = [0, 0];
        cuts(vault, change, |is_changed, disk, about| {
            let bytes = read_config(disk).unwrap_or_else(|error| panic!("{error:?}: {about}"));
            let is_new = bytes == new;
            found[usize::from(is_new)] += 1;
            assert!(is_new || (bytes == b"old" && !is_changed), "{about}");
            // Whatever was left over, the next change works.
            replace_config::<_, ()>(disk, |_| Ok(b"third".to_vec())).unwrap();
            assert_whole(disk, b"third", about);
        });
        assert!(found.iter().all(|&count| count > 0), "both ends were seen: {found:?}");
    }

    #[test]
    fn a_failing_call_is_reported_and_can_be_tried_again() {
        for (code, nth) in
            [libc::EIO, libc::ENOSPC].into_iter().flat_map(|c| (1..40).map(move |n| (c, n)))
        {
            let disk = SimDisk::new();
            disk.fail(nth, code, CallKind::changes);
            let made = create(&disk, b"config");
            disk.heal();
            if made.is_err() {
                // The very last sync may have failed: then it is there, and whole.
                match create(&disk, b"config") {
                    Ok(()) | Err(VaultError::Exists) => {}
                    Err(error) => panic!("{error:?} after {code} in call {nth}"),
                }
            }
            assert_whole(&disk, b"config", &format!("{code} in call {nth}"));

            disk.fail(nth, code, CallKind::changes);
            let changed = replace_config::<_, ()>(&disk, |_| Ok(b"new".to_vec()));
            disk.heal();
            let bytes = read_config(&disk).unwrap();
            assert!(bytes == b"new" || (bytes == b"config" && changed.is_err()), "call {nth}");
            replace_config::<_, ()>(&disk, |_| Ok(b"config".to_vec())).unwrap();
            assert_whole(&disk, b"config", &format!("{code} in call {nth}"));
        }
    }
}
