//! Power cuts on the simulated disk: a script of operations is cut at a backing call, the disk forgets what was not synced
//! (under each rule), the vault is mounted again, and every name must show one of the states that it was given, whole, and
//! none older than what fsync had returned for.
//!
//! `AKASHA_SEED=n` runs one random script, `AKASHA_CUTS=all` tries every cut of it. A failure prints script, cut and rule.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use akasha::backing::{CallKind, CrashRule, FileKind, SimDisk};
use akasha::clock::{Clock, Timestamp};
use akasha::crypto::Cipher;
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::config::{self, ConfigParams, KdfParams};
use akasha::format::{EntryKind, Geometry, OpenVault};
use akasha::store::{NewAttr, Node, RenameFlags, Store, StoreError, StoreOptions, vault};

type Tree = Arc<Store<SimDisk>>;
/// Directory (0: the root, 1: `d`) and name.
type Place = (usize, u8);

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        Timestamp { secs: 1_700_000_000 + self.0.load(Ordering::Relaxed).cast_signed(), nanos: 0 }
    }
    fn elapsed(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Truncates or creates, writes, closes.
    Save {
        at: Place,
        len: usize,
        fsync: bool,
    },
    /// Changes 4 KiB in the middle and appends a little.
    Change {
        at: Place,
        block: usize,
        fsync: bool,
    },
    Rename {
        from: Place,
        to: Place,
    },
    Exchange {
        a: Place,
        b: Place,
    },
    Unlink {
        at: Place,
    },
    SyncDir {
        dir: usize,
    },
    /// Time passes and the maintenance runs.
    Tick {
        secs: u64,
    },
}

/// What a name was given, in order, and the first of these that a cut may leave.
#[derive(Clone, Default)]
struct History {
    states: Vec<Option<Arc<Vec<u8>>>>,
    floor: usize,
    /// The latest state that came by a change of names.
    named: usize,
}

/// A vault with an empty directory `d`, everything durable.
struct Start {
    disk: SimDisk,
    config: config::VaultConfig,
    keys: Arc<akasha::crypto::KeyTree>,
}

fn start() -> Start {
    let disk = SimDisk::new();
    let params = ConfigParams {
        cipher: Cipher::ChaCha20Poly1305,
        geometry: Geometry::new(12).expect("4 KiB"),
        kdf: KdfParams { memory_kib: 19 << 10, passes: 2, lanes: 1 },
    };
    let (bytes, open) =
        config::create(b"p", &params, 0, &SeededEntropy::new(1)).expect("a configuration");
    vault::create(&disk, &bytes).expect("a vault");
    let start = Start { disk, config: open.config, keys: open.keys };
    let store = mount(&start, &start.disk, 0).expect("a mount").0;
    store.mkdir(&store.root(), b"d", &NEW).expect("a directory");
    store.close().expect("a clean end");
    start
}

const NEW: NewAttr = NewAttr { mode: 0o700, uid: 0, gid: 0 };

fn mount(start: &Start, disk: &SimDisk, salt: u64) -> Result<(Tree, Arc<TestClock>), StoreError> {
    let open = OpenVault { config: start.config.clone(), keys: Arc::clone(&start.keys) };
    let clock = Arc::new(TestClock(AtomicU64::new(100 * (salt + 1))));
    let entropy = Arc::new(SeededEntropy::new(0x5eed ^ (salt << 20)));
    let options = StoreOptions::default();
    let store = Store::open(Arc::new(disk.clone()), open, options, entropy, clock.clone())?;
    Ok((store, clock))
}

fn name(at: Place) -> Vec<u8> {
    // One of the names is too long for a backing name.
    if at.1 == 3 { vec![b'l'; 200] } else { vec![b'a' + at.1] }
}

fn dir_of(store: &Tree, dir: usize) -> Result<Arc<Node<SimDisk>>, StoreError> {
    if dir == 0 { Ok(store.root()) } else { store.lookup(&store.root(), b"d") }
}

/// Content that says which write it is from, in every block.
fn content(stamp: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        chunk.copy_from_slice(&stamp.to_le_bytes()[..chunk.len()]);
    }
    bytes
}

struct Run {
    store: Tree,
    clock: Arc<TestClock>,
    histories: BTreeMap<Place, History>,
    stamp: u64,
}

impl Run {
    fn history(&mut self, at: Place) -> &mut History {
        self.histories.entry(at).or_insert_with(|| History {
            states: vec![None],
            floor: 0,
            named: 0,
        })
    }

    fn now(&mut self, at: Place) -> Option<Arc<Vec<u8>>> {
        self.history(at).states.last().cloned().flatten()
    }

    fn push(&mut self, at: Place, state: Option<Arc<Vec<u8>>>) {
        self.history(at).states.push(state);
    }

    /// A state that comes by a change of names: what fsync of the directory makes durable.
    fn push_named(&mut self, at: Place, state: Option<Arc<Vec<u8>>>) {
        let history = self.history(at);
        history.states.push(state);
        history.named = history.states.len() - 1;
    }

    /// What was promised for `at` up to now holds from now on.
    fn promise(&mut self, at: Place) {
        let history = self.history(at);
        history.floor = history.states.len() - 1;
    }

    fn apply(&mut self, step: Step) -> Result<(), StoreError> {
        self.stamp += 1;
        match step {
            Step::Save { at, len, fsync } => {
                let bytes = Arc::new(content(self.stamp, len));
                if self.now(at).is_none() {
                    self.push_named(at, Some(Arc::clone(&bytes)));
                } else {
                    self.push(at, Some(Arc::clone(&bytes)));
                }
                let dir = dir_of(&self.store, at.0)?;
                let node = match self.store.lookup(&dir, &name(at)) {
                    Ok(node) => {
                        self.store.open_file(&node, true)?;
                        node
                    }
                    Err(StoreError::NotFound) => self.store.create(&dir, &name(at), &NEW)?,
                    Err(error) => return Err(error),
                };
                let done = self
                    .store
                    .truncate(&node, 0)
                    .and_then(|()| self.store.write(&node, 0, &bytes))
                    .and_then(|()| self.store.flush(&node))
                    .and_then(|()| if fsync { self.store.fsync(&node) } else { Ok(()) });
                self.store.close_file(&node, true);
                done?;
                if fsync {
                    self.promise(at);
                }
            }
            Step::Change { at, block, fsync } => {
                let Some(before) = self.now(at) else { return Ok(()) };
                let mut bytes = before.to_vec();
                let offset = (block * 4096).min(bytes.len());
                let patch = content(self.stamp, 4096);
                bytes.resize(bytes.len().max(offset + 4096), 0);
                bytes[offset..offset + 4096].copy_from_slice(&patch);
                self.push(at, Some(Arc::new(bytes)));
                let dir = dir_of(&self.store, at.0)?;
                let node = self.store.lookup(&dir, &name(at))?;
                self.store.open_file(&node, true)?;
                let done = self
                    .store
                    .write(&node, offset as u64, &patch)
                    .and_then(|()| self.store.flush(&node))
                    .and_then(|()| if fsync { self.store.fsync(&node) } else { Ok(()) });
                self.store.close_file(&node, true);
                done?;
                if fsync {
                    self.promise(at);
                }
            }
            Step::Rename { from, to } => {
                let Some(moved) = self.now(from) else { return Ok(()) };
                if from == to {
                    return Ok(());
                }
                self.push_named(to, Some(moved));
                self.push_named(from, None);
                let (dir, to_dir) = (dir_of(&self.store, from.0)?, dir_of(&self.store, to.0)?);
                self.store.rename(&dir, &name(from), &to_dir, &name(to), RenameFlags::Replace)?;
            }
            Step::Exchange { a, b } => {
                let (Some(first), Some(second)) = (self.now(a), self.now(b)) else { return Ok(()) };
                if a == b {
                    return Ok(());
                }
                self.push_named(a, Some(second));
                self.push_named(b, Some(first));
                let (dir, to_dir) = (dir_of(&self.store, a.0)?, dir_of(&self.store, b.0)?);
                self.store.rename(&dir, &name(a), &to_dir, &name(b), RenameFlags::Exchange)?;
            }
            Step::Unlink { at } => {
                if self.now(at).is_none() {
                    return Ok(());
                }
                self.push_named(at, None);
                self.store.unlink(&dir_of(&self.store, at.0)?, &name(at))?;
            }
            Step::SyncDir { dir } => {
                self.store.fsync_dir(&dir_of(&self.store, dir)?)?;
                let places: Vec<Place> = self.histories.keys().copied().collect();
                for at in places.into_iter().filter(|at| at.0 == dir) {
                    let history = self.history(at);
                    history.floor = history.floor.max(history.named);
                }
            }
            Step::Tick { secs } => {
                self.clock.0.fetch_add(secs, Ordering::Relaxed);
                self.store.tick();
            }
        }
        Ok(())
    }
}

/// Runs the script until the power goes; returns what may be found.
fn run(start: &Start, disk: &SimDisk, script: &[Step]) -> BTreeMap<Place, History> {
    let Ok((store, clock)) = mount(start, disk, 1) else { return BTreeMap::new() };
    let mut run = Run { store, clock, histories: BTreeMap::new(), stamp: 0 };
    for step in script {
        // After the cut every answer is of a dead machine.
        let done = run.apply(*step);
        if disk.is_off() {
            return run.histories;
        }
        if let Err(error) = done {
            panic!("{step:?} failed with the power on: {error}");
        }
    }
    let closed = run.store.close();
    if !disk.is_off() {
        closed.expect("a clean end with the power on");
        for history in run.histories.values_mut() {
            history.floor = history.states.len() - 1;
        }
    }
    run.histories
}

/// Mounts what survived and holds it against what may be found. Returns the complaint.
fn check(
    start: &Start,
    disk: &SimDisk,
    histories: &BTreeMap<Place, History>,
) -> Result<(), String> {
    let mut found: Vec<BTreeMap<Place, Vec<u8>>> = Vec::new();
    for round in 0..2 {
        let (store, _) = mount(start, disk, 10 + round).map_err(|e| format!("no mount: {e}"))?;
        let mut seen = BTreeMap::new();
        for dir in 0..2 {
            let node = dir_of(&store, dir).map_err(|e| format!("directory {dir}: {e}"))?;
            let mut names = Vec::new();
            store
                .list(&node, 0, &mut |entry| {
                    names.push((entry.kind, entry.name.to_vec()));
                    true
                })
                .map_err(|e| format!("list {dir}: {e}"))?;
            for (kind, listed) in names {
                if dir == 0 && listed == b"d" && kind == EntryKind::Dir {
                    continue;
                }
                let at = (0..4).map(|n| (dir, n)).find(|at| name(*at) == listed);
                let text = String::from_utf8_lossy(&listed).into_owned();
                let at = at.ok_or_else(|| format!("a stranger in directory {dir}: {text}"))?;
                let file = store.lookup(&node, &listed).map_err(|e| format!("{at:?}: {e}"))?;
                store.open_file(&file, false).map_err(|e| format!("open {at:?}: {e}"))?;
                let size = store.attr(&file).map_err(|e| format!("stat {at:?}: {e}"))?.size;
                let mut bytes = vec![0; usize::try_from(size).expect("small")];
                let len =
                    store.read(&file, 0, &mut bytes).map_err(|e| format!("read {at:?}: {e}"))?;
                store.close_file(&file, false);
                if len != bytes.len() {
                    return Err(format!("{at:?}: {len} of {} bytes", bytes.len()));
                }
                seen.insert(at, bytes);
            }
        }
        for (at, history) in histories {
            let state = seen.get(at);
            let allowed = &history.states[history.floor..];
            if !allowed.iter().any(|s| s.as_ref().map(|b| &***b) == state.map(Vec::as_slice)) {
                let what = match state {
                    None => "absent".to_owned(),
                    Some(bytes) => format!(
                        "{} bytes from step {}, state {:?} of {}, floor {}",
                        bytes.len(),
                        bytes.first().copied().unwrap_or(0),
                        history.states.iter().position(|s| s.as_deref() == Some(bytes)),
                        history.states.len(),
                        history.floor
                    ),
                };
                return Err(format!("round {round}: {at:?} is {what}"));
            }
        }
        if let Some(at) = seen.keys().find(|at| !histories.contains_key(at)) {
            return Err(format!("{at:?} was never made"));
        }
        let temps = disk.paths().iter().any(|(path, _, _)| path.starts_with(b".akasha/tmp/"));
        if temps {
            return Err("something is left in .akasha/tmp".to_owned());
        }
        store.close().map_err(|e| format!("round {round}: close: {e}"))?;
        found.push(seen);
    }
    if found[0] == found[1] { Ok(()) } else { Err("a second mount shows something else".into()) }
}

/// Takes everything visible away; only the skeleton may stay.
fn check_skeleton(start: &Start, disk: &SimDisk) -> Result<(), String> {
    let (store, _) = mount(start, disk, 20).map_err(|e| format!("no mount: {e}"))?;
    for dir in [1, 0] {
        let node = dir_of(&store, dir).map_err(|e| e.to_string())?;
        let mut names = Vec::new();
        store
            .list(&node, 0, &mut |entry| {
                names.push((entry.kind, entry.name.to_vec()));
                true
            })
            .map_err(|e| e.to_string())?;
        for (kind, listed) in names {
            let gone = match kind {
                EntryKind::Dir => store.rmdir(&node, &listed),
                _ => store.unlink(&node, &listed),
            };
            gone.map_err(|e| e.to_string())?;
        }
    }
    store.close().map_err(|e| e.to_string())?;
    let left: Vec<String> = disk
        .paths()
        .into_iter()
        .filter(|(path, kind, _)| {
            let known: [&[u8]; 4] =
                [b".akasha/vault.toml", b".akasha/lock", b".akasha/clean", b".akasha/reserve"];
            *kind != FileKind::Dir && !known.contains(&&path[..])
                || *kind == FileKind::Dir && !path.starts_with(b".akasha")
        })
        .map(|(path, _, _)| String::from_utf8_lossy(&path).into_owned())
        .collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

/// Cuts the script at call `cut` and tries every rule. Returns how many disks were checked.
fn try_cut(start: &Start, script: &[Step], cut: u64) -> Result<usize, String> {
    let disk = start.disk.crash(&CrashRule::Everything);
    disk.cut_at(disk.operations() + cut);
    let histories = run(start, &disk, script);
    let rules = CrashRule::battery(disk.pending_changes(), 0..3);
    let mut tried = 0;
    for rule in rules {
        let left = disk.crash(&rule);
        let complain = |what: String| format!("cut {cut}, {rule:?}: {what}\n{}", list(script));
        check(start, &left, &histories).map_err(complain)?;
        tried += 1;
        // Another cut, while the vault recovers.
        let again = disk.crash(&rule);
        again.cut_at(again.operations() + cut % 7);
        let _ = mount(start, &again, 5);
        for second in [CrashRule::NothingUnsynced, CrashRule::Everything] {
            let left = again.crash(&second);
            let complain = |what: String| {
                format!(
                    "cut {cut}, {rule:?}, again at {}, {second:?}: {what}\n{script:#?}",
                    cut % 7
                )
            };
            check(start, &left, &histories).map_err(complain)?;
            check_skeleton(start, &left).map_err(complain)?;
            tried += 1;
        }
    }
    Ok(tried)
}

/// The script, a numbered step a line.
fn list(script: &[Step]) -> String {
    let lines = script.iter().enumerate().map(|(i, step)| format!("{:3} {step:?}", i + 1));
    lines.collect::<Vec<_>>().join("\n")
}

/// How many changing calls the uncut script makes.
fn count(start: &Start, script: &[Step]) -> u64 {
    let disk = start.disk.crash(&CrashRule::Everything);
    let before = disk.operations();
    run(start, &disk, script);
    disk.operations() - before
}

const A: Place = (0, 0);
const B: Place = (0, 1);
const C: Place = (1, 2);
const LONG: Place = (0, 3);

/// Short scripts, each tried at every cut.
fn scripts() -> Vec<(&'static str, Vec<Step>)> {
    let save = |at, len, fsync| Step::Save { at, len, fsync };
    let change = |at, block, fsync| Step::Change { at, block, fsync };
    let rename = |from, to| Step::Rename { from, to };
    let (tick, sync_root) = (Step::Tick { secs: 6 }, Step::SyncDir { dir: 0 });
    vec![
        ("save again", vec![save(A, 5000, true), save(A, 9000, false), tick, save(A, 70, true)]),
        (
            "replace without fsync",
            vec![
                save(A, 5000, true),
                save(B, 6000, false),
                rename(B, A),
                tick,
                save(B, 100, false),
                rename(B, A),
                tick,
            ],
        ),
        (
            "replace with fsync",
            vec![
                save(A, 5000, true),
                save(B, 6000, true),
                rename(B, A),
                sync_root,
                Step::Unlink { at: A },
                sync_root,
                tick,
            ],
        ),
        (
            "change in the middle",
            vec![
                save(A, 300_000, true),
                change(A, 3, true),
                change(A, 40, true),
                change(A, 3, false),
                tick,
                change(A, 9, true),
            ],
        ),
        (
            "move between directories",
            vec![
                save(A, 5000, true),
                rename(A, C),
                save(A, 100, false),
                tick,
                rename(C, B),
                Step::SyncDir { dir: 0 },
            ],
        ),
        (
            "exchange",
            vec![save(A, 100, true), save(C, 5000, false), Step::Exchange { a: A, b: C }, tick],
        ),
        (
            "long names",
            vec![
                save(LONG, 100, true),
                save(A, 10, true),
                rename(A, LONG),
                tick,
                rename(LONG, B),
                save(LONG, 5, true),
                Step::Unlink { at: LONG },
                tick,
            ],
        ),
        (
            "many at once",
            vec![
                save(A, 10, false),
                save(B, 5000, false),
                save(C, 200_000, false),
                save(LONG, 1, false),
                tick,
                Step::Unlink { at: C },
                save(C, 9, false),
                tick,
            ],
        ),
    ]
}

#[test]
fn a_cut_at_every_call_leaves_every_name_old_or_new() {
    let start = start();
    let mut tried = 0;
    for (title, script) in scripts() {
        for cut in 0..=count(&start, &script) {
            tried += try_cut(&start, &script, cut).unwrap_or_else(|what| panic!("{title}: {what}"));
        }
    }
    println!("{tried} disks after a power cut");
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn random_script(seed: u64) -> Vec<Step> {
    let random = SeededEntropy::new(seed);
    let below = |n: u64| random.next_u64() % n;
    let place = || ((below(2)) as usize, below(4) as u8);
    let places: Vec<Place> = (0..80).map(|_| place()).collect();
    (0..30)
        .map(|i| {
            let (at, to) = (places[2 * i], places[2 * i + 1]);
            let fsync = below(3) == 0;
            match below(12) {
                0..=3 => Step::Save {
                    at,
                    len: [0, 1, 4096, 5000, 140_000, 300_000][below(6) as usize],
                    fsync,
                },
                4..=5 => Step::Change { at, block: below(60) as usize, fsync },
                6..=7 => Step::Rename { from: at, to },
                8 => Step::Unlink { at },
                9 => Step::SyncDir { dir: at.0 },
                10 if below(3) == 0 => Step::Exchange { a: at, b: to },
                _ => Step::Tick { secs: below(8) },
            }
        })
        .collect()
}

#[test]
fn cuts_of_random_scripts_leave_every_name_old_or_new() {
    let start = start();
    let seeds = number("AKASHA_SEED").map_or(1..13, |seed| seed..seed + 1);
    let all = std::env::var("AKASHA_CUTS").is_ok_and(|cuts| cuts == "all");
    for seed in seeds {
        let script = random_script(seed);
        let calls = count(&start, &script);
        let cuts: Vec<u64> = if all {
            (0..=calls).collect()
        } else {
            (0..6).map(|i| SeededEntropy::new(seed ^ (i << 40)).next_u64() % (calls + 1)).collect()
        };
        for cut in cuts {
            let done = try_cut(&start, &script, cut);
            done.unwrap_or_else(|what| panic!("AKASHA_SEED={seed}: {what}"));
        }
    }
}

#[test]
fn a_disk_that_lies_about_syncs_is_caught() {
    for kind in [CallKind::Sync, CallKind::SyncDir] {
        let start = start();
        let caught = scripts().into_iter().any(|(_, script)| {
            (0..=count(&start, &script)).any(|cut| {
                let disk = start.disk.crash(&CrashRule::Everything);
                disk.lie(kind);
                disk.cut_at(disk.operations() + cut);
                let histories = run(&start, &disk, &script);
                let left = disk.crash(&CrashRule::NothingUnsynced);
                check(&start, &left, &histories).is_err()
            })
        });
        assert!(caught, "{kind:?} does nothing, and nobody notices");
    }
}
