//! Hard links on a disk that fails one call, or all calls of a kind until somebody is told. Of an operation that answers an error
//! the next look says whether it happened, wholly, or not at all, and from then on nothing may say otherwise:
//!
//! - a retry works, and so does all that follows, with a retry and without;
//! - what cuts leave, also later on, is what the oracle of [`super::linked`] allows;
//! - the end of the mount is `Ok`, and the next mount shows the same.
//!
//! A failed sync of names is final for its mount (docs/SEMANTICS.md, "A failed sync"): what fails after it, and its end, are
//! followed by another mount, which must show what was promised and work.

use std::collections::BTreeMap;

use akasha::backing::{CallKind, CrashRule};
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::store::StoreError;

use super::faulty::Fault;
use super::linked::{Names, Op, Oracle, Run, View, judge, view};

/// Cuts after operations that follow the fault: one in so many.
const CUT_EVERY: u64 = 4;

/// How often each kind of call is made by these operations and the end.
pub fn counts(ops: &[Op], in_order: bool) -> Result<BTreeMap<CallKind, u64>, String> {
    let mut run = Run::new(in_order);
    run.disk.reset_counters();
    run.run(ops)?;
    let closed = run.store().close();
    closed.map_err(|error| format!("the end: {error:?}"))?;
    Ok(run.disk.counters().calls)
}

/// Runs the operations with the fault; one that fails is tried once more, or what follows is.
pub fn run(ops: &[Op], in_order: bool, fault: Fault, talks: bool) -> Result<(), String> {
    let mut run = Run::new(in_order);
    run.talks = talks;
    run.disk.reset_counters();
    let matches = move |kind| kind == fault.kind;
    if fault.stays {
        run.disk.fail_from(fault.nth, fault.code, matches);
    } else {
        run.disk.fail(fault.nth, fault.code, matches);
    }
    let dice = SeededEntropy::new((fault.nth << 8) ^ u64::from(fault.code.cast_unsigned()));
    let mut faulty = Faulty { run, fault, is_healed: false, is_new_mount: false, dice };
    for (index, op) in ops.iter().enumerate() {
        let done = faulty.step(op);
        done.map_err(|what| format!("operation {index}, {op:?}: {what}"))?;
    }
    faulty.end()
}

struct Faulty {
    run: Run,
    fault: Fault,
    /// The disk fails nothing any more.
    is_healed: bool,
    /// Since the fault struck there was another mount.
    is_new_mount: bool,
    dice: SeededEntropy,
}

impl Faulty {
    fn has_struck(&self) -> bool {
        self.run.disk.counters().of(self.fault.kind) >= self.fault.nth
    }

    /// Whether what fails may go on failing until the next mount.
    fn is_final(&self) -> bool {
        let of_names = matches!(self.fault.kind, CallKind::SyncDir | CallKind::SyncAll);
        of_names && self.has_struck() && !self.is_new_mount
    }

    /// Whether it may cost a file its changes.
    fn loses(&self) -> bool {
        matches!(self.fault.kind, CallKind::Sync | CallKind::SyncAll)
    }

    fn heal(&mut self) {
        if self.has_struck() {
            self.run.disk.heal();
            self.is_healed = true;
        }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        let before = self.run.oracle.clone();
        let struck_before = self.has_struck();
        let done = self.run.apply(op);
        if self.run.talks {
            let struck = if self.has_struck() { "struck" } else { "" };
            eprintln!("{op:?}: {done:?}, then at call {} {struck}", self.run.disk.operations());
        }
        let strikes = self.has_struck() && !struck_before;
        let is_final = self.is_final();
        match done {
            // Nobody was told what failed: a tick promises nothing then, and what follows is not what the fault lasts for.
            Ok(()) if matches!(op, Op::Tick | Op::Kill) && (strikes || is_final) => {
                self.heal();
                if matches!(op, Op::Tick) {
                    self.run.oracle = before;
                }
                self.is_new_mount = matches!(op, Op::Kill);
                self.adopt()
            }
            Ok(()) if matches!(op, Op::Remount | Op::Kill) => {
                self.is_new_mount = self.has_struck();
                self.look()
            }
            Ok(()) => self.look(),
            Err(error) if !self.has_struck() => Err(format!("fails without a fault: {error:?}")),
            // The end of a mount tells of what was lost when nobody had it open.
            Err(StoreError::Lost) if matches!(op, Op::Remount) && self.loses() => {
                self.run.oracle = before;
                self.mount_anew()
            }
            Err(error) if self.is_healed && !self.is_final() => {
                Err(format!("fails when the disk is well again: {error:?}"))
            }
            Err(error) => self.told(op, before, &error),
        }
    }

    /// What is done about an error.
    fn told(&mut self, op: &Op, before: Oracle, error: &StoreError) -> Result<(), String> {
        let because = |what: String| format!("after {error:?}: {what}");
        self.heal();
        if matches!(op, Op::Remount | Op::Kill) {
            self.run.oracle = before;
            return self.mount_anew().map_err(because);
        }
        self.reconcile(op, before).map_err(because)?;
        self.cuts(2).map_err(because)?;
        // Or what the failure left behind is what the next operations find.
        if !self.is_final() && self.dice.next_u64() >> 63 == 0 {
            return Ok(());
        }
        let before = self.run.oracle.clone();
        let again = self.run.apply(op);
        if self.run.talks {
            eprintln!("again: {again:?}");
        }
        match again {
            Ok(()) => self.look().map_err(because),
            Err(again) if self.is_final() => {
                let because = |what| format!("after {error:?}, {again:?}: {what}");
                self.reconcile(op, before).map_err(because)?;
                self.mount_anew().map_err(because)?;
                self.run.apply(op).map_err(|error| because(format!("a new mount: {error:?}")))?;
                self.look().map_err(because)
            }
            Err(again) => Err(format!("after {error:?} a retry fails: {again:?}")),
        }
    }

    /// What a mount shows. What the fault changes of a first look is not there for a second one.
    fn view(&mut self) -> Result<View, String> {
        let struck = self.has_struck();
        let mut seen = view(&self.run.store());
        if self.has_struck() && (!struck || !self.is_healed) {
            self.heal();
            seen = view(&self.run.store());
        }
        // A new file of which a sync lost a part has no version: it can be removed.
        let mut tries = 0;
        while let Err(what) = &seen
            && tries < 8
            && let Some(path) = what.strip_suffix(": Lost")
        {
            let held = self.run.oracle.now().iter().find(|(held, _)| **held == path);
            let (path, file) = held.map(|(path, file)| (*path, *file)).ok_or(what)?;
            if self.run.oracle.files[file].promised.is_some() {
                break;
            }
            tries += 1;
            self.run
                .apply(&Op::Unlink(path))
                .map_err(|error| format!("{path} was lost, and stays: {error:?}"))?;
            seen = view(&self.run.store());
        }
        seen
    }

    /// All is shown as it should be; cuts, now and then.
    fn look(&mut self) -> Result<(), String> {
        let seen = self.view()?;
        let oracle = &self.run.oracle;
        if !seen.keys().eq(oracle.now().keys()) {
            return Err(format!("shown are {:?}", seen.keys()));
        }
        oracle.check(&seen, false)?;
        for (path, shown) in &seen {
            let file = &oracle.files[oracle.now()[path]];
            if !self.has_struck() && file.contents.last() != Some(&shown.content) {
                return Err(format!("{path} shows an older version"));
            }
        }
        if self.has_struck() && self.dice.next_u64().is_multiple_of(CUT_EVERY) {
            return self.cuts(1);
        }
        Ok(())
    }

    /// After a failed operation: either all of its names changed, or none. Its content may have changed in part.
    fn reconcile(&mut self, op: &Op, before: Oracle) -> Result<(), String> {
        let seen = self.view()?;
        let after = std::mem::replace(&mut self.run.oracle, before);
        let names = names_of(&seen, &after)?;
        let (happened, loses) = (names == *after.now(), self.loses());
        if !happened && names != *self.run.oracle.now() {
            return Err(format!("{names:?} are shown, neither before nor after"));
        }
        let old: Vec<Vec<u8>> = self
            .run
            .oracle
            .files
            .iter()
            .map(|file| file.contents.last().cloned().unwrap_or_default())
            .collect();
        let new: Vec<Vec<u8>> = after
            .files
            .iter()
            .map(|file| file.contents.last().cloned().unwrap_or_default())
            .collect();
        if happened {
            self.run.oracle = after;
        } else if matches!(op, Op::Unlink(_) | Op::Exchange(..)) {
            // Its first steps may be in the vault: what is removed along with a name goes before it, and an intent that could not
            // be made durable may be. Until names are made durable the next time a cut shows it undone or done.
            let (done, undone) = (after.now().clone(), self.run.oracle.now().clone());
            self.run.oracle.becomes(|names| *names = done);
            self.run.oracle.becomes(|names| *names = undone);
        }
        for (path, file) in &names {
            let shown = &seen[path].content;
            let file_of = &mut self.run.oracle.files[*file];
            file_of.id = Some(seen[path].id);
            let none = Vec::new();
            let (was, is) = (old.get(*file).unwrap_or(&none), &new[*file]);
            if shown != was && shown != is && !is_between(shown, was, is) {
                let known = file_of.contents[file_of.floor..].contains(shown);
                // The changes of one that was lost are gone as a whole.
                if !(known && loses) {
                    return Err(format!("{path} shows {} bytes of no version", shown.len()));
                }
            }
            if file_of.contents.last() != Some(shown) {
                file_of.contents.push(shown.clone());
            }
        }
        self.run.oracle.check(&seen, false)
    }

    /// From here on the mount shows what it does: a version, under the names that may be there.
    fn adopt(&mut self) -> Result<(), String> {
        let seen = self.view()?;
        let oracle = &mut self.run.oracle;
        oracle.check(&seen, false)?;
        let names = names_of(&seen, oracle)?;
        for (path, file) in &names {
            let contents = &mut oracle.files[*file].contents;
            if contents.last() != Some(&seen[path].content) {
                contents.push(seen[path].content.clone());
            }
        }
        if names != *oracle.now() {
            oracle.becomes(|now| *now = names);
        }
        Ok(())
    }

    /// Ends the mount, whatever that says, and begins another.
    fn mount_anew(&mut self) -> Result<(), String> {
        if let Some(store) = self.run.store.take() {
            let _ = store.close();
        }
        self.run.mount().map_err(|error| format!("cannot be mounted again: {error:?}"))?;
        self.is_new_mount = true;
        self.adopt()?;
        self.cuts(1)
    }

    fn end(&mut self) -> Result<(), String> {
        self.heal();
        self.cuts(2).map_err(|what| format!("before the end: {what}"))?;
        let shown = self.view().map_err(|what| format!("before the end: {what}"))?;
        let store = self.run.store.take().expect("mounted");
        let struck = self.has_struck();
        let mut closed = store.close();
        if closed.is_err() && !struck && self.has_struck() {
            // The fault waited for the end, which tells it.
            self.heal();
            closed = Ok(());
            drop(store);
            self.run.mount().map_err(|error| format!("after a failed end: {error:?}"))?;
            self.adopt().map_err(|what| format!("after a failed end: {what}"))?;
        } else {
            drop(store);
            self.run.disk.heal();
            self.is_healed = true;
            self.run.mount().map_err(|error| format!("after the end: {error:?}"))?;
            let found = self.view().map_err(|what| format!("after the end: {what}"))?;
            if closed.is_ok() && found != shown {
                return Err(format!("after the end {found:?}, before it {shown:?}"));
            }
            self.adopt().map_err(|what| format!("after the end: {what}"))?;
        }
        let told = matches!(closed, Err(StoreError::Lost)) && self.loses();
        if let Err(error) = closed
            && !told
            && !self.is_final()
        {
            return Err(format!("the end: {error:?}"));
        }
        self.cuts(1).map_err(|what| format!("after the end: {what}"))
    }

    /// What some power cuts would leave now.
    fn cuts(&mut self, count: usize) -> Result<(), String> {
        let seed = self.dice.next_u64() >> 8;
        let mut rules: Vec<CrashRule> = self.run.disk.rules(seed..seed + 1);
        while rules.len() > count {
            rules.swap_remove((self.dice.next_u64() >> 8) as usize % rules.len());
        }
        for rule in rules {
            judge(&self.run, &self.run.disk.crash(&rule), &[rule])
                .map_err(|what| format!("cut, {rule:?}: {what}"))?;
        }
        Ok(())
    }
}

/// Which file each name shows.
fn names_of(seen: &View, oracle: &Oracle) -> Result<Names, String> {
    let mut names = Names::new();
    for (path, shown) in seen {
        let is_it = |file: &super::linked::File| file.id == Some(shown.id);
        let known = oracle.files.iter().position(is_it);
        // Of one that answered an error the id is not known.
        let known = known.or_else(|| {
            let held = oracle.now().get(path).copied();
            held.filter(|file| oracle.files[*file].id.is_none())
        });
        names.insert(path, known.ok_or_else(|| format!("{path} shows a stranger"))?);
    }
    Ok(names)
}

/// Whether every byte is one that was there before, or one that is to be.
fn is_between(shown: &[u8], was: &[u8], is: &[u8]) -> bool {
    let of = |content: &[u8], at: usize| content.get(at).copied().unwrap_or(0);
    let fits = |(at, byte): (usize, &u8)| *byte == of(was, at) || *byte == of(is, at);
    shown.len() <= was.len().max(is.len()) && shown.iter().enumerate().all(fits)
}
