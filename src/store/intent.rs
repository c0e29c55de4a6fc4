//! The intent of an exchange of two names: `.akasha/exchange`, synced before the two renames, removed after they
//! are durable. A mount that finds it finishes what it says.
//!
//! It names backing entries only; whoever can write it could rename them directly. Every part is one component below
//! the vault.

use crate::backing::{At, Backing, FileKind, PublishedFile, RenameMode, TempFile};

use super::core::{ControlDirs, Core};
use super::error::{Attempt, Result};
use crate::format::temp_file_name;

/// The file's name in `.akasha`.
const NAME: &[u8] = b"exchange";
/// First line of the file.
const MAGIC: &str = "akasha exchange 1";
/// The longest intent that is read, in bytes: two deep paths.
const LEN_MAX: u64 = 1 << 20;

/// Two entries, each with its directory (backing names from the vault's root) and its backing name before and after.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Intent {
    pub from_path: Vec<Vec<u8>>,
    pub to_path: Vec<Vec<u8>>,
    pub a_old: Vec<u8>,
    pub a_new: Vec<u8>,
    pub b_old: Vec<u8>,
    pub b_new: Vec<u8>,
}

impl Intent {
    /// Durable on return.
    pub fn write<B: Backing>(&self, core: &Core<B>) -> Result<()> {
        let name = temp_file_name(&*core.entropy);
        let temp = core.backing.create_temp(&core.tmp, &name, 0o600).attempt("create an intent")?;
        temp.write_at(0, self.encode().as_bytes()).attempt("write an intent")?;
        temp.sync().attempt("sync an intent")?;
        core.backing
            .rename(&core.tmp, &name, &core.control, NAME, RenameMode::Replace)
            .attempt("place an intent")?;
        core.backing.sync_arrivals(&core.control).attempt("sync an intent's name")
    }

    /// Removes it; a mount that still finds it has nothing left to do.
    pub fn clear<B: Backing>(core: &Core<B>) -> Result<()> {
        core.backing.unlink(&core.control, NAME).attempt("remove an intent")?;
        // It must not come back when the names have changed again.
        core.backing.sync_dir(&core.control).attempt("sync an intent's removal")
    }

    pub(super) fn encode(&self) -> String {
        let text = |name: &Vec<u8>| String::from_utf8_lossy(name).into_owned();
        let path = |path: &Vec<Vec<u8>>| path.iter().map(text).collect::<Vec<_>>().join("/");
        format!(
            "{MAGIC}\n/{}\n/{}\n{}\n{}\n{}\n{}\nend\n",
            path(&self.from_path),
            path(&self.to_path),
            text(&self.a_old),
            text(&self.a_new),
            text(&self.b_old),
            text(&self.b_new)
        )
    }

    pub(super) fn parse(bytes: &[u8]) -> Option<Intent> {
        let text = std::str::from_utf8(bytes).ok()?;
        let lines: Vec<&str> = text.strip_suffix("\nend\n")?.split('\n').collect();
        let [MAGIC, from, to, a_old, a_new, b_old, b_new] = lines[..] else { return None };
        let path = |line: &str| {
            let parts = line.strip_prefix('/')?;
            if parts.is_empty() {
                return Some(Vec::new());
            }
            parts.split('/').map(component).collect::<Option<Vec<_>>>()
        };
        Some(Intent {
            from_path: path(from)?,
            to_path: path(to)?,
            a_old: component(a_old)?,
            a_new: component(a_new)?,
            b_old: component(b_old)?,
            b_new: component(b_new)?,
        })
    }

    /// Finishes an exchange that an earlier daemon began.
    pub fn replay<B: Backing>(backing: &B, dirs: &ControlDirs<B>) -> Result<()> {
        match found(backing.stat(&dirs.control, At::Name(NAME))).attempt("look for an intent")? {
            None => return Ok(()),
            Some(stat) if stat.kind != FileKind::File => {
                log::warn!("something strange in the place of an intent is left alone");
                return Ok(());
            }
            Some(_) => {}
        }
        let file = backing.open(&dirs.control, NAME).attempt("open an intent")?;
        let len = file.stat().attempt("stat an intent")?.len;
        let mut bytes = vec![0; usize::try_from(len.min(LEN_MAX)).expect("at most 1 MiB")];
        file.read_at(0, &mut bytes).attempt("read an intent")?;
        match Self::parse(&bytes) {
            Some(intent) => intent.finish(backing)?,
            // It is written whole before it gets its name: this is damage, and says nothing.
            None => log::warn!("the intent of an exchange is damaged; it is removed"),
        }
        backing.unlink(&dirs.control, NAME).attempt("remove an intent")?;
        backing.sync_dir(&dirs.control).attempt("sync an intent's removal")
    }

    fn finish<B: Backing>(&self, backing: &B) -> Result<()> {
        let open = |path: &[Vec<u8>]| -> std::io::Result<B::Dir> {
            let mut dir = backing.root()?;
            for name in path {
                dir = backing.open_dir(&dir, name)?;
            }
            Ok(dir)
        };
        let open = |path| found(open(path)).attempt("open a directory of an exchange");
        // What is not there was moved or removed since: then the exchange was over.
        let (Some(from), Some(to)) = (open(&self.from_path)?, open(&self.to_path)?) else {
            return Ok(());
        };
        finish_one(backing, &from, &self.a_old, &to, &self.a_new)?;
        finish_one(backing, &to, &self.b_old, &from, &self.b_new)?;
        backing.sync_dir(&from).attempt("sync a directory")?;
        backing.sync_dir(&to).attempt("sync a directory")?;
        Ok(())
    }
}

/// Moves one of the two entries to its new name, if it is not there yet. A cut may leave a file that moved between
/// directories under both names: then the old one goes.
fn finish_one<B: Backing>(
    backing: &B,
    from: &B::Dir,
    old: &[u8],
    to: &B::Dir,
    new: &[u8],
) -> Result<()> {
    let look = |dir, name| found(backing.stat(dir, At::Name(name))).attempt("look for an entry");
    match (look(from, old)?, look(to, new)?) {
        (Some(before), Some(after)) if before.ino == after.ino => {
            backing.unlink(from, old).attempt("finish an exchange")
        }
        (Some(_), None) => {
            backing.rename(from, old, to, new, RenameMode::NoReplace).attempt("finish an exchange")
        }
        _ => Ok(()),
    }
}

/// What is there. An answer that tells nothing about that (a failing disk, no descriptors left) is none: an intent that is
/// given up shows both names where it was between them.
fn found<T>(answer: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match answer {
        Ok(there) => Ok(Some(there)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP) => Ok(None),
            _ => Err(error),
        },
    }
}

/// One component of a path below the vault.
fn component(text: &str) -> Option<Vec<u8>> {
    let plain = !text.is_empty() && text != "." && text != ".." && !text.contains(['/', '\0']);
    plain.then(|| text.as_bytes().to_vec())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn intent() -> Intent {
        Intent {
            from_path: vec![b"AQx".to_vec(), b"AQy".to_vec()],
            to_path: vec![],
            a_old: b"A1".to_vec(),
            a_new: b"A2".to_vec(),
            b_old: b"B1".to_vec(),
            b_new: b"B2".to_vec(),
        }
    }

    #[test]
    fn an_intent_reads_as_it_was_written() {
        assert_eq!(Intent::parse(intent().encode().as_bytes()), Some(intent()));
    }

    #[test]
    fn a_cut_or_climbing_intent_is_none() {
        let text = intent().encode();
        for end in 0..text.len() {
            assert_eq!(Intent::parse(&text.as_bytes()[..end]), None, "cut at {end}");
        }
        // A path is written in one way only.
        for path in ["//AQx/AQy", "/AQx//AQy", "/AQx/AQy/", "AQx/AQy", ""] {
            let other = text.replace("/AQx/AQy", path);
            assert_eq!(Intent::parse(other.as_bytes()), None, "{path}");
        }
        for bad in ["..", "a/b", "", "."] {
            let climbing = Intent { a_old: bad.as_bytes().to_vec(), ..intent() };
            assert_eq!(Intent::parse(climbing.encode().as_bytes()), None, "{bad}");
        }
    }
}
