//! What a tampered vault shows, held against the truth: every byte that is read is right, or there is an error.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use akasha::backing::Backing;
use akasha::clock::SystemClock;
use akasha::entropy::SeededEntropy;
use akasha::format::{EntryKind, OpenVault};
use akasha::fs::FsError;
use akasha::store::{Node, Store, StoreError, StoreOptions, check};

use super::hand;
use super::shown::Shown;
use super::subject::Truth;

/// What became of an edit, from the worst.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Wrong bytes, a name out of nowhere, an error that is no I/O error, damage that a check does not find, a panic.
    pub wrong: Vec<String>,
    /// The mount was refused.
    pub refused: bool,
    /// Reads that gave an I/O error.
    pub errors: u64,
    /// Paths and attributes that are not there.
    pub absent: u64,
    /// Paths and attributes that are as they once were.
    pub older: u64,
}

impl Verdict {
    pub fn is_harmless(&self) -> bool {
        *self == Verdict::default()
    }
}

/// What an edit may do besides being noticed.
#[derive(Clone, Copy, Default)]
pub struct Allowed {
    /// Not to be missed by a check either.
    pub check: bool,
    /// Whole authentic objects from the past may show.
    pub older: bool,
    /// Names may vanish without a trace, since backing names were taken away.
    pub absence: bool,
    /// The vault's directories were changed so that a check could not be held to find it.
    pub unseen: bool,
}

/// Mounts, reads everything, and compares.
pub fn judge<B: Backing>(
    disk: &Arc<B>,
    vault: &OpenVault,
    read_only: bool,
    truth: &Truth,
    allowed: Allowed,
) -> Verdict {
    let look = || {
        let again = OpenVault { config: vault.config.clone(), keys: Arc::clone(&vault.keys) };
        let mut verdict = Verdict::default();
        let effort = check::Effort { threads: 1, read_bytes: &AtomicU64::new(0) };
        let checked = (read_only && allowed.check)
            .then(|| check::check(&**disk, &again, effort, &mut |_| {}));
        let options = StoreOptions { read_only, ..StoreOptions::default() };
        let entropy = Arc::new(SeededEntropy::new(7));
        match Store::open(Arc::clone(disk), again, options, entropy, Arc::new(SystemClock::new())) {
            Ok(store) => {
                let mut eye = Eye { store: &store, truth, allowed, verdict: &mut verdict };
                eye.everything();
                // An end that is not clean is an answer, too: a damaged vault can refuse it.
                let _ = store.close();
            }
            Err(error) => {
                verdict.refused = true;
                hold_error(error, "mounting", &mut verdict);
            }
        }
        if let Some(Ok(summary)) = checked
            && summary.damaged == 0
            && verdict.errors > 0
            && !allowed.unseen
        {
            verdict.wrong.push(format!("a check finds nothing: {summary:?}"));
        }
        verdict
    };
    catch_unwind(AssertUnwindSafe(look)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        Verdict { wrong: vec![format!("a panic: {text}")], ..Verdict::default() }
    })
}

/// The number that `fs` gives for damage is EIO, and nothing else.
fn hold_error(error: StoreError, what: &str, verdict: &mut Verdict) {
    let text = error.to_string();
    if FsError::Store(error).errno().get() != libc::EIO {
        verdict.wrong.push(format!("{what} fails with: {text}"));
    }
}

struct Eye<'a, B: Backing> {
    store: &'a Arc<Store<B>>,
    truth: &'a Truth,
    allowed: Allowed,
    verdict: &'a mut Verdict,
}

impl<B: Backing> Eye<'_, B> {
    fn everything(&mut self) {
        let mut seen = BTreeSet::new();
        let mut stand_ins = BTreeSet::new();
        self.below(&self.store.root(), b"", &mut seen, &mut stand_ins);
        self.attributes(b"", &self.store.root());
        let mut closed = BTreeSet::new();
        for path in self.truth.tree.keys() {
            if seen.contains(path) {
                continue;
            }
            self.verdict.absent += 1;
            // Below what does not open there is nothing; else a stand-in shows that something was there.
            let (dir, _) = hand::split(path);
            let accounted = closed.contains(dir) || stand_ins.contains(dir);
            closed.insert(path.clone());
            let is_mark = |mark: &[u8]| path.windows(mark.len()).any(|part| part == mark);
            if !accounted && !self.allowed.absence && !is_mark(b" (conflict ") {
                self.verdict.wrong.push(format!("{} vanished", path.escape_ascii()));
            }
        }
    }

    fn below(
        &mut self,
        dir: &Arc<Node<B>>,
        path: &[u8],
        seen: &mut BTreeSet<Vec<u8>>,
        stand_ins: &mut BTreeSet<Vec<u8>>,
    ) {
        let mut names = Vec::new();
        if let Err(error) = self.store.open_dir(dir) {
            self.error(error, path);
            stand_ins.insert(path.to_vec());
            return;
        }
        let listed = self.store.list(dir, 0, &mut |entry| {
            names.push(entry.name.to_vec());
            true
        });
        if let Err(error) = listed {
            self.error(error, path);
            stand_ins.insert(path.to_vec());
        }
        for name in names {
            let inside = hand::join(path, &name);
            let is_known = self.truth.tree.contains_key(&inside);
            if name.starts_with(b"akasha-damaged-") {
                // One more stands for what was there.
                if !is_known {
                    stand_ins.insert(path.to_vec());
                    self.verdict.errors += 1;
                }
                seen.insert(inside.clone());
            }
            match self.store.lookup(dir, &name) {
                Ok(node) => self.object(&node, &inside, seen, stand_ins),
                Err(error) => {
                    self.error(error, &inside);
                    seen.insert(inside);
                }
            }
        }
        self.store.close_dir(dir);
    }

    fn object(
        &mut self,
        node: &Arc<Node<B>>,
        path: &[u8],
        seen: &mut BTreeSet<Vec<u8>>,
        stand_ins: &mut BTreeSet<Vec<u8>>,
    ) {
        seen.insert(path.to_vec());
        self.attributes(path, node);
        match node.kind() {
            EntryKind::Dir => {
                self.hold(path, &Shown::Dir);
                self.below(node, path, seen, stand_ins);
            }
            EntryKind::Symlink => match self.store.readlink(node) {
                Ok(target) => self.hold(path, &Shown::Link(target)),
                Err(error) => self.error(error, path),
            },
            EntryKind::File => self.file(node, path),
            _ => self.hold(path, &Shown::Fifo),
        }
    }

    fn file(&mut self, node: &Arc<Node<B>>, path: &[u8]) {
        if let Err(error) = self.store.open_file(node, false) {
            let stands_in = matches!(error, StoreError::IsADirectory)
                || hand::split(path).1.starts_with(b"akasha-damaged-");
            if !stands_in {
                self.error(error, path);
            }
            return;
        }
        let whole = self.store.attr(node).and_then(|attr| {
            let len = usize::try_from(attr.size).expect("the files are small");
            let mut content = vec![0; len + 1];
            let got = self.store.read(node, 0, &mut content)?;
            content.truncate(got);
            if got != len {
                self.verdict.wrong.push(format!("{got} of {len} bytes"));
            }
            Ok(content)
        });
        match whole {
            Ok(content) => self.hold(path, &Shown::File(content)),
            Err(error) => {
                self.error(error, path);
                self.pieces(node, path);
            }
        }
        self.store.close_file(node, false);
    }

    /// Around a damaged block the rest is readable, and all of it is of one version.
    fn pieces(&mut self, node: &Arc<Node<B>>, path: &[u8]) {
        let Some(Shown::File(_)) = self.truth.tree.get(path) else { return };
        let versions: Vec<_> =
            self.truth.tree.get(path).into_iter().chain(self.past(path)).collect();
        let mut read = Vec::new();
        for at in (0..600_000).step_by(4096) {
            let mut piece = vec![0; 4096];
            if let Ok(len) = self.store.read(node, at as u64, &mut piece) {
                piece.truncate(len);
                read.push((at, piece));
            }
        }
        let is_of = |version: &&Shown| {
            let Shown::File(content) = version else { return false };
            let part =
                |at: usize| content.get(at..content.len().min(at + 4096)).unwrap_or_default();
            read.iter().all(|(at, piece)| part(*at) == piece)
        };
        if !versions.iter().any(is_of) {
            self.verdict.wrong.push(format!("wrong pieces of {}", path.escape_ascii()));
        }
    }

    fn hold(&mut self, path: &[u8], found: &Shown) {
        if self.truth.tree.get(path) == Some(found) {
            return;
        }
        let is_old = self.past(path).any(|old| old == found);
        if is_old || self.is_conflict(path, found) {
            self.verdict.older += 1;
        } else {
            let known = if self.truth.tree.contains_key(path) { "wrong" } else { "from nowhere" };
            self.verdict.wrong.push(format!("{}: {known}", path.escape_ascii()));
        }
    }

    /// What `path` may show instead.
    fn past(&self, path: &[u8]) -> impl Iterator<Item = &Shown> {
        let past = self.truth.past.get(path).filter(|_| self.allowed.older);
        past.into_iter().flatten()
    }

    /// Of several entries that have one name, others come forward when one does not open.
    fn is_conflict(&self, path: &[u8], found: &Shown) -> bool {
        let group = [b"twice".as_slice(), b"yyyy", b"replaced"];
        let Some(group) = group.into_iter().find(|group| path.starts_with(group)) else {
            return false;
        };
        let mut others = self.truth.tree.iter().filter(|(path, _)| path.starts_with(group));
        others.any(|(_, shown)| shown == found)
            || (group == b"replaced" && *found == Shown::File(b"old".to_vec()))
    }

    fn attributes(&mut self, path: &[u8], node: &Arc<Node<B>>) {
        let listed = match self.store.list_xattrs(node) {
            Ok(listed) => listed,
            Err(error) => return self.error(error, path),
        };
        let truth = self.truth.attributes.get(path);
        let older = self.truth.past_values.get(path).filter(|_| self.allowed.older);
        for name in &listed {
            match self.store.get_xattr(node, name) {
                Ok(value) => {
                    if truth.is_some_and(|all| all.get(name) == Some(&value)) {
                    } else if older.is_some_and(|all| all.contains(&value)) {
                        self.verdict.older += 1;
                    } else {
                        let (path, name) = (path.escape_ascii(), name.escape_ascii());
                        self.verdict.wrong.push(format!("attribute {name} of {path}"));
                    }
                }
                Err(error) => self.error(error, path),
            }
        }
        let missing = truth.map_or(0, |all| all.keys().filter(|k| !listed.contains(k)).count());
        self.verdict.absent += missing as u64;
    }

    fn error(&mut self, error: StoreError, path: &[u8]) {
        // A stand-in that was there before is no news.
        let name = hand::split(path).1;
        if name.starts_with(b"akasha-damaged-") {
            return;
        }
        self.verdict.errors += 1;
        hold_error(error, &path.escape_ascii().to_string(), self.verdict);
    }
}
