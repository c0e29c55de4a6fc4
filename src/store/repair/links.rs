//! Makes the stub of a file with several names anew.

use crate::backing::{At, Backing, RenameMode, TempFile};
use crate::entropy::Entropy;
use crate::format::{EntryId, STUB_LEN, Stub, seal_stub, stub_file_name, temp_file_name};

use super::super::core::{ControlDirs, VaultKeys};
use super::super::error::{Attempt, Result};
use super::super::sync_all::sync_all_names;
use super::nameless::Named;

/// Gives every name of the file `inode` a native link of one new stub. While they change there is no stub in `.akasha/inodes`, so
/// that nobody believes its count. Whatever stood under a name and is no stub by its length is kept in `lost_found`. `false` if the
/// backing filesystem has no hard links.
pub(super) fn rebuild_stub<B: Backing>(
    backing: &B,
    vault: &VaultKeys,
    dirs: &ControlDirs<B>,
    lost_found: &B::Dir,
    entropy: &dyn Entropy,
    inode: EntryId,
    names: &[Named],
) -> Result<bool> {
    let (fresh, link) = (temp_file_name(entropy), temp_file_name(entropy));
    let file = backing.create_temp(&dirs.tmp, &fresh, 0o600).attempt("create a stub")?;
    let native = backing.stat(&dirs.tmp, At::Name(&fresh)).attempt("stat a stub")?.ino;
    let stub = Stub { inode, native };
    let bytes = seal_stub(&vault.keys, vault.cipher, vault.geometry, stub, entropy);
    file.write_at(0, &bytes).attempt("write a stub")?;
    file.sync().attempt("sync a stub")?;
    let again = || backing.link(&dirs.tmp, &fresh, &dirs.tmp, &link);
    if again().is_err() {
        log::warn!("the names of a file cannot be counted here: no hard links");
        backing.unlink(&dirs.tmp, &fresh).attempt("remove a stub")?;
        return Ok(false);
    }
    backing.unlink(&dirs.tmp, &link).attempt("remove a stub")?;
    let stub_name = stub_file_name(inode);
    match backing.unlink(&dirs.inodes, &stub_name) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).attempt("remove a stub");
        }
        _ => backing.sync_dir(&dirs.inodes).attempt("sync .akasha/inodes")?,
    }
    for named in names {
        let dir = named.dir.open(backing).attempt("open a directory")?;
        let stat = backing.stat(&dir, At::Name(&named.backing)).attempt("stat a name")?;
        if stat.len != STUB_LEN as u64 {
            let kept = [named.backing.as_slice(), b"~"].concat();
            let kept = if kept.len() > 255 { temp_file_name(entropy) } else { kept };
            backing.link(&dir, &named.backing, lost_found, &kept).attempt("keep a name")?;
            backing.sync_dir(lost_found).attempt("sync lost+found")?;
        }
        again().attempt("link a stub")?;
        backing
            .rename(&dirs.tmp, &link, &dir, &named.backing, RenameMode::Replace)
            .attempt("place a stub")?;
    }
    sync_all_names(backing, dirs)?;
    backing
        .rename(&dirs.tmp, &fresh, &dirs.inodes, &stub_name, RenameMode::Replace)
        .attempt("place a stub")?;
    backing.sync_dir(&dirs.inodes).attempt("sync .akasha/inodes")?;
    Ok(true)
}
