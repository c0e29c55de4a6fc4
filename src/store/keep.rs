//! Publishing over a top that stays as an older layer: by an exchange, and where the filesystem has none by a second name, and
//! where it has none of those by a copy.

use crate::backing::{At, Backing, PublishedFile, RenameMode, TempFile};
use crate::format::temp_file_name;

use super::Store;
use super::error::{Attempt, Result};
use super::finish::Finished;
use super::names::has_no_links;

/// A layer is copied in pieces of so many bytes.
const COPIED_AT_ONCE: usize = 1 << 20;

impl<B: Backing> Store<B> {
    /// Publishes over a top that stays, as the older layer `older`, in one atomic step: the new layer
    /// takes that name first, and then the two are exchanged.
    pub(super) fn replace_keeping(
        &self,
        finished: &Finished<B>,
        older: &[u8],
        fd: &B::Dir,
        backing: &[u8],
    ) -> Result<()> {
        let core = &self.core;
        let (tmp, layers, temp) = (&core.tmp, &core.layers, finished.layer.name());
        match core.backing.rename(tmp, temp, layers, older, RenameMode::Replace) {
            // An earlier try came that far and could not be taken back.
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound
                    && core.backing.stat(layers, At::Name(older)).is_ok() => {}
            prepared => prepared.attempt("prepare an exchange")?,
        }
        match core.backing.rename(layers, older, fd, backing, RenameMode::Exchange) {
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) => {
                // No exchange here (network filesystems): a second, durable name for the old top, then replace.
                core.backing
                    .rename(layers, older, tmp, temp, RenameMode::NoReplace)
                    .attempt("take an exchange back")?;
                match core.backing.link(fd, backing, layers, older) {
                    Err(error) if has_no_links(&error) => self.copy_layer(fd, backing, older)?,
                    linked => linked.attempt("keep an older layer")?,
                }
                core.backing.sync_arrivals(layers).attempt("sync the layers")?;
                return core
                    .backing
                    .rename(tmp, temp, fd, backing, RenameMode::Replace)
                    .attempt("publish a version");
            }
            Err(error) => {
                core.backing
                    .rename(layers, older, tmp, temp, RenameMode::NoReplace)
                    .attempt("take an exchange back")?;
                return Err(error).attempt("publish a version");
            }
        }
        self.layer_names.count();
        Ok(())
    }

    /// Puts a durable copy of a top among the layers, as `older`: the way of filesystems that can neither exchange nor link.
    fn copy_layer(&self, fd: &B::Dir, backing: &[u8], older: &[u8]) -> Result<()> {
        let core = &self.core;
        let name = temp_file_name(&*core.entropy);
        let copy = || -> std::io::Result<()> {
            let top = core.backing.open(fd, backing)?;
            let temp = core.backing.create_temp(&core.tmp, &name, 0o600)?;
            let (len, mut at) = (top.stat()?.len, 0);
            let mut piece = vec![0; COPIED_AT_ONCE];
            while at < len {
                piece.truncate(usize::try_from(len - at).unwrap_or(COPIED_AT_ONCE));
                top.read_at(at, &mut piece)?;
                temp.write_at(at, &piece)?;
                at += piece.len() as u64;
            }
            temp.sync()?;
            core.backing.rename(&core.tmp, &name, &core.layers, older, RenameMode::NoReplace)
        };
        copy().attempt("keep a copy of an older layer").inspect_err(|_| {
            // Else the next mount does.
            let _ = core.backing.unlink(&core.tmp, &name);
        })
    }
}
