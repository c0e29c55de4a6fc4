//! A script on a disk that fails one call, or all calls of a kind until somebody is told.

use akasha::backing::{CallKind, CrashRule};
use akasha::format::EntryKind;
use akasha::store::StoreError;

use super::oracle::{Place, Spot};
use super::script::{Op, Run, Script, view};
use super::vault;

/// Which call fails, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: CallKind,
    pub nth: u64,
    pub code: i32,
    /// All from the nth on, until an operation says so.
    pub stays: bool,
}

impl Fault {
    /// After a failed sync nothing more can be promised in this mount: retries may fail.
    fn is_final(&self) -> bool {
        matches!(self.kind, CallKind::Sync | CallKind::SyncDir | CallKind::SyncAll)
    }
}

/// How often each kind of call is made after the mount.
pub fn counts(script: &Script) -> Result<Vec<(CallKind, u64)>, String> {
    let mut run = Run::new(script);
    run.mount().map_err(|error| format!("mount: {error:?}"))?;
    run.disk.reset_counters();
    for op in &script.ops {
        run.apply(op).map_err(|error| format!("{op:?}: {error:?}"))?;
    }
    Ok(run.disk.counters().calls.into_iter().collect())
}

/// Runs the script with the fault; an operation that fails is tried once more.
pub fn run(script: &Script, fault: Fault) -> Result<(), String> {
    let mut run = Run::new(script);
    run.trusts_ticks = false;
    run.mount().map_err(|error| format!("mount: {error:?}"))?;
    let matches = move |kind| kind == fault.kind;
    if fault.stays {
        run.disk.fail_from(fault.nth, fault.code, matches);
    } else {
        run.disk.fail(fault.nth, fault.code, matches);
    }
    run.talks = std::env::var_os("AKASHA_FAULT").is_some();
    for (index, op) in script.ops.iter().enumerate() {
        step(&mut run, op, fault).map_err(|what| format!("operation {index}, {op:?}: {what}"))?;
    }
    run.disk.heal();
    after(&run, "before the end")?;
    let closed = run.end();
    if closed.is_ok() {
        run.oracle.keep_all();
    } else if !fault.is_final() {
        return Err(format!("cannot be closed: {closed:?}"));
    }
    after(&run, "after the end")
}

fn step(run: &mut Run, op: &Op, fault: Fault) -> Result<(), String> {
    let before = run.oracle.clone();
    let done = run.apply(op);
    if run.talks {
        eprintln!("{op:?}: {done:?}, then at call {}", run.disk.operations());
    }
    let Err(error) = done else {
        if matches!(op, Op::Tick(_)) {
            run.disk.heal();
        }
        return Ok(());
    };
    run.disk.heal();
    if matches!(op, Op::Remount) {
        // Nothing was promised; what was is checked.
        return run.mount_anew().map_err(|error| format!("cannot be mounted again: {error:?}"));
    }
    let told = format!("{error:?}");
    run.reconcile(op, &before).map_err(|what| format!("after {told}: {what}"))?;
    let again = run.apply(op);
    if run.talks {
        eprintln!("again: {again:?}");
    }
    match again {
        Ok(()) => Ok(()),
        Err(_) if fault.is_final() => {
            let before = run.oracle.clone();
            run.reconcile(op, &before)
        }
        Err(error) => Err(format!("after {told} a retry fails: {error:?}")),
    }
}

/// What a power cut would leave now, at worst and at best.
fn after(run: &Run, when: &str) -> Result<(), String> {
    for rule in [CrashRule::NothingUnsynced, CrashRule::Everything] {
        let disk = run.disk.crash(&rule);
        let options = akasha::store::StoreOptions::default();
        let found = vault::mount(&disk, &run.clock, 0xdd, &options)
            .map_err(|error| format!("{error:?}"))
            .and_then(|store| view(&store))
            .and_then(|view| run.oracle.check(&view));
        found.map_err(|what| format!("{when}, {rule:?}: {what}"))?;
    }
    Ok(())
}

impl Run {
    /// Closes every handle and the store.
    fn end(&mut self) -> Result<(), StoreError> {
        let mut first = Ok(());
        for handle in 0..=u8::MAX {
            let closed = self.apply(&Op::Close(handle));
            first = first.and(closed);
        }
        let store = self.store.take().expect("mounted");
        let closed = store.close();
        first.and(closed)
    }

    fn mount_anew(&mut self) -> Result<(), StoreError> {
        let _ = self.end_quietly();
        self.mount()?;
        // From here on the mount shows what is committed.
        let store = self.store();
        let seen = view(&store).unwrap_or_default();
        self.oracle.adopt(&seen);
        Ok(())
    }

    fn end_quietly(&mut self) -> Result<(), StoreError> {
        self.forget_handles();
        match self.store.take() {
            Some(store) => store.close(),
            None => Ok(()),
        }
    }

    /// After a failed operation: the mount shows the state before or after it.
    fn reconcile(&mut self, op: &Op, before: &super::oracle::Oracle) -> Result<(), String> {
        match op {
            Op::Create(handle, path) => {
                self.look_again(path)?;
                self.read_again(*handle, before)
            }
            Op::Mkdir(path) | Op::Symlink(path) | Op::Unlink(path) | Op::Rmdir(path) => {
                self.look_again(path)
            }
            Op::Rename(from, to) | Op::Exchange(from, to) => {
                self.look_again(from)?;
                self.look_again(to)
            }
            Op::Name(_, path) => {
                let (Some(spot), Ok(dir)) = (self.spot(path), self.parent(path)) else {
                    return Ok(());
                };
                if self.store().lookup(&dir, &spot.1).is_err() {
                    self.oracle = before.clone();
                }
                Ok(())
            }
            Op::CreateNameless(handle)
            | Op::Open(handle, _)
            | Op::Write(handle, ..)
            | Op::Append(handle, _)
            | Op::Truncate(handle, _)
            | Op::Room(handle, ..)
            | Op::Copy(_, (handle, _), _)
            | Op::Flush(handle)
            | Op::Fsync(handle)
            | Op::Close(handle) => self.read_again(*handle, before),
            Op::TruncatePath(path, _) => {
                let Some(spot) = self.spot(path) else { return Ok(()) };
                let Some(id) = self.oracle.holder(&spot) else { return Ok(()) };
                let node = self.node(path).map_err(|error| format!("{error:?}"))?;
                let shown = self.content_of(&node)?;
                self.oracle.object(id).live = shown;
                Ok(())
            }
            Op::FsyncDir(_) | Op::Tick(_) | Op::Remount => Ok(()),
        }
    }

    /// Tells the oracle what is under a name.
    fn look_again(&mut self, path: &str) -> Result<(), String> {
        let Some(spot) = self.spot(path) else { return Ok(()) };
        let dir = self.parent(path).map_err(|error| format!("{path:?}: {error:?}"))?;
        let found = match self.store().lookup(&dir, &spot.1) {
            Ok(node) => Some((node.id().get(), node.kind())),
            Err(StoreError::NotFound) => None,
            Err(error) => return Err(format!("{path:?} cannot be looked up: {error:?}")),
        };
        self.oracle.is_at(&spot, found);
        Ok(())
    }

    /// Tells the oracle what a file that is open shows: what it was, what it should be, or something between where
    /// a write failed.
    fn read_again(&mut self, handle: u8, before: &super::oracle::Oracle) -> Result<(), String> {
        let Some(node) = self.handle_node(handle) else { return Ok(()) };
        let id = node.id().get();
        if let Ok(shown) = self.content_of(&node) {
            let now = &self.oracle.objects[&id].live;
            let was = before.objects.get(&id).map_or(&[][..], |object| &object.live);
            let fits = |(at, byte): (usize, &u8)| {
                let of = |content: &[u8]| content.get(at).copied().unwrap_or(0);
                *byte == of(now) || *byte == of(was)
            };
            let whole =
                shown.len() >= was.len().min(now.len()) && shown.len() <= was.len().max(now.len());
            if !whole || !shown.iter().enumerate().all(fits) {
                return Err("the mount shows what was never written".into());
            }
            self.oracle.object(id).live = shown;
            return Ok(());
        }
        // Its changes are lost: whoever opens it anew sees a committed version, or it never had one.
        self.drop_handles_of(id);
        let opened = self.store().open_file(&node, true);
        let shown = opened.map_err(|error| format!("{error:?}")).and_then(|()| {
            let shown = self.content_of(&node);
            self.store().close_file(&node, true);
            shown
        });
        match shown {
            Ok(shown) if self.oracle.is_version(id, &shown) => {
                self.oracle.object(id).live = shown;
                Ok(())
            }
            Ok(_) => Err("after a loss the mount shows what was never committed".into()),
            Err(what) => {
                let Some((dir, name)) = self.oracle.place(id).cloned() else { return Ok(()) };
                if self.oracle.was_promised(id) {
                    return Err(format!("what was fsynced cannot be read: {what}"));
                }
                let parent = self.node_by_id(dir).ok_or("its directory is gone")?;
                self.oracle.unlinked(&(dir, name.clone()));
                self.store()
                    .unlink(&parent, &name)
                    .map_err(|error| format!("what is lost cannot be removed: {error:?}"))
            }
        }
    }
}

/// Where an object is: for the oracle after a failed change of names.
impl super::oracle::Oracle {
    fn is_at(&mut self, spot: &Spot, found: Option<(u64, EntryKind)>) {
        if self.holder(spot) == found.map(|(id, _)| id) {
            return;
        }
        match found {
            Some((id, _)) if self.objects.contains_key(&id) => {
                self.hold(spot, Some(id));
                self.put(id, Place::At(spot.clone()));
            }
            Some((id, kind)) => {
                self.made(id, kind, spot, b"");
                self.allow(id);
            }
            None => self.hold(spot, None),
        }
    }
}
