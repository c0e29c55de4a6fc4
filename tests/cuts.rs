//! Power cuts on the simulated disk: whatever call the power goes off at, and whatever of the unsynced the disk
//! keeps, every file is wholly old or new, what was fsynced is there, and nothing else is visible.
//!
//! A failure prints `AKASHA_SCRIPT=... AKASHA_CUT=... AKASHA_RULE=... AKASHA_SEED=...`, which replay it. `AKASHA_CUTS=all` tries every
//! cut under every rule; `AKASHA_STOP=1` ends with the first script that fails.

#[path = "cuts/faulty.rs"]
mod faulty;
#[path = "cuts/linked.rs"]
mod linked;
#[path = "cuts/linked_faults.rs"]
mod linked_faults;
#[path = "cuts/oracle.rs"]
mod oracle;
#[path = "cuts/script.rs"]
mod script;
#[path = "cuts/scripts.rs"]
mod scripts;
#[path = "cuts/vault.rs"]
mod vault;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use akasha::backing::{CallKind, CrashRule, SimDisk};
use akasha::entropy::{Entropy, SeededEntropy};
use akasha::format::EntryKind;
use akasha::store::{Store, StoreOptions};
use oracle::{Oracle, View};
use script::{Run, Script, view};
use vault::TestClock;

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    let text = env(name)?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn all_is_wanted() -> bool {
    env("AKASHA_CUTS").is_some_and(|cuts| cuts == "all")
}

/// The kinds of disks to try: one that loses any change of names, and one that keeps their order.
fn orders() -> impl Iterator<Item = bool> {
    [false, true]
        .into_iter()
        .filter(|order| env("AKASHA_ORDER").is_none_or(|wanted| wanted == order.to_string()))
}

/// Whether nothing more is to be tried: one failure is all that a mutant is asked for.
fn is_enough(failures: &[String]) -> bool {
    !failures.is_empty() && number("AKASHA_STOP") == Some(1)
}

/// What was tried.
#[derive(Default, Debug)]
struct Tally {
    cuts: u64,
    crashes: u64,
    recoveries: u64,
}

/// The files of a vault that holds nothing.
const SKELETON: [&[u8]; 9] = [
    b".akasha",
    b".akasha/clean",
    b".akasha/inodes",
    b".akasha/layers",
    b".akasha/lock",
    b".akasha/reserve",
    b".akasha/tmp",
    b".akasha/vault.toml",
    b".akasha/xattrs",
];

fn mount(disk: &SimDisk, clock: &Arc<TestClock>, seed: u64) -> Result<Arc<Store<SimDisk>>, String> {
    vault::mount(disk, clock, seed, &StoreOptions::default())
        .map_err(|error| format!("cannot be mounted: {error:?}"))
}

/// Mounts what a crash left, and judges it.
fn judge(disk: &SimDisk, clock: &Arc<TestClock>, oracle: &Oracle) -> Result<View, String> {
    let store = mount(disk, clock, 0xaa)?;
    if let Some((path, ..)) = disk.paths().iter().find(|(p, ..)| p.starts_with(b".akasha/tmp/")) {
        return Err(format!("left in tmp: {}", String::from_utf8_lossy(path)));
    }
    let seen = view(&store)?;
    let checked = oracle.check(&seen);
    if checked.is_err() && number("AKASHA_CUT").is_some() {
        for ((dir, name), seen) in &seen {
            let (name, id) = (String::from_utf8_lossy(name), seen.id);
            eprintln!(
                "shown in {dir:x}: {name:?}, {:?} {id:016x}, {}",
                seen.kind,
                oracle.describe(id)
            );
        }
    }
    checked.map(|()| seen)
}

/// A mount that meets `fault` fails, or shows what it must; without the fault the next one does.
fn mount_with(run: &Run, fault: faulty::Fault) -> Result<(), String> {
    let disk = run.disk.crash(&CrashRule::Everything);
    if fault.stays {
        disk.fail_from(fault.nth, fault.code, move |kind| kind == fault.kind);
    } else {
        disk.fail(fault.nth, fault.code, move |kind| kind == fault.kind);
    }
    if let Ok(store) = mount(&disk, &run.clock, 0xaa) {
        // What is looked at meanwhile fails, or not.
        let _ = view(&store);
        disk.heal();
        let checked = view(&store).and_then(|view| run.oracle.check(&view));
        match checked {
            // What the disk fails to read is damage, and shown as that until it is looked at again.
            Err(what) if fault.code == libc::EIO && what.contains("akasha-damaged-") => {}
            checked => checked.map_err(|what| format!("with the fault: {what}"))?,
        }
        // A sync that failed may have its consequences: the next mount is what counts.
        let _ = store.close();
    }
    disk.heal();
    judge(&disk, &run.clock, &run.oracle)
        .and_then(|seen| use_on(&disk, &run.clock, &seen))
        .map_err(|what| format!("afterwards: {what}"))
}

/// A second mount sees the same; what is removed leaves nothing.
fn use_on(disk: &SimDisk, clock: &Arc<TestClock>, first: &View) -> Result<(), String> {
    let store = mount(disk, clock, 0xbb)?;
    let again = view(&store)?;
    if again != *first {
        return Err("a second mount shows something else".into());
    }
    remove_all(&store).map_err(|error| format!("nothing can be removed: {error}"))?;
    store.close().map_err(|error| format!("cannot be closed: {error:?}"))?;
    let left: Vec<String> = disk
        .paths()
        .iter()
        .filter(|(path, ..)| !SKELETON.contains(&path.as_slice()))
        .map(|(path, _, len)| format!("{} ({len})", String::from_utf8_lossy(path)))
        .collect();
    if left.is_empty() { Ok(()) } else { Err(format!("left behind: {left:?}")) }
}

fn remove_all(store: &Arc<Store<SimDisk>>) -> Result<(), String> {
    let mut open = vec![(store.root(), false)];
    let mut dirs = Vec::new();
    while let Some((dir, _)) = open.pop() {
        let mut names = Vec::new();
        let listed = store.list(&dir, 0, &mut |entry| {
            names.push((entry.name.to_vec(), entry.kind));
            true
        });
        listed.map_err(|error| format!("{error:?}"))?;
        for (name, kind) in names {
            if kind == EntryKind::Dir {
                let node = store.lookup(&dir, &name).map_err(|error| format!("{error:?}"))?;
                dirs.push((Arc::clone(&dir), name));
                open.push((node, true));
            } else {
                store.unlink(&dir, &name).map_err(|error| format!("{error:?}"))?;
            }
        }
    }
    while let Some((dir, name)) = dirs.pop() {
        store.rmdir(&dir, &name).map_err(|error| format!("{error:?}"))?;
    }
    Ok(())
}

/// Looks at what cuts under these rules left.
type Judge<'a> = dyn Fn(&SimDisk, &[CrashRule]) -> Result<(), String> + 'a;

/// One cut under one rule, and `twice` cuts of the recovery.
fn crash(
    (disk, clock): (&SimDisk, &Arc<TestClock>),
    rule: &CrashRule,
    judge: &Judge<'_>,
    (seed, twice): (u64, u64),
    tally: &mut Tally,
) -> Result<(), String> {
    judge(&disk.crash(rule), &[*rule])?;
    tally.crashes += 1;
    // It fails, or it did not need what failed.
    let recover = |disk: &SimDisk| drop(mount(disk, clock, 0xcc));
    let recovered = disk.crash(rule);
    recover(&recovered);
    let recovery = recovered.operations();
    let dice = SeededEntropy::new(seed);
    let cuts: Vec<u64> = if all_is_wanted() {
        (0..recovery).collect()
    } else {
        (0..twice).map(|_| dice.next_u64() % recovery.max(1)).collect()
    };
    for cut in cuts {
        let disk = disk.crash(rule);
        disk.cut_at(cut);
        recover(&disk);
        let rules = disk.rules(seed..seed + 1);
        let second = rules[(dice.next_u64() % rules.len() as u64) as usize];
        tally.recoveries += 1;
        judge(&disk.crash(&second), &[*rule, second])
            .map_err(|what| format!("recovery cut at {cut}, then {second:?}: {what}"))?;
    }
    Ok(())
}

/// The rules to try: all, or the extremes and some drawn.
fn rules(run: &Run, seed: u64, count: usize) -> Vec<CrashRule> {
    let mut all = run.disk.rules(seed..seed + 3);
    if all.len() > count {
        let dice = SeededEntropy::new(seed);
        let mut rest = all.split_off(2);
        while all.len() < count && !rest.is_empty() {
            let at = dice.next_u64() as usize % rest.len();
            all.push(rest.swap_remove(at));
        }
    }
    all
}

fn caught<T>(what: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(what)).unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", words.unwrap_or("?")))
    })
}

/// How much to try.
#[derive(Clone, Copy)]
struct Effort {
    cuts: usize,
    rules: usize,
    /// Of what decides which unsynced changes survive.
    seeds: u64,
}

/// Tries the cuts of a script; the failures, each with what replays it.
fn torture(
    script: &Script,
    effort: Effort,
    prepare: &dyn Fn(&SimDisk),
    tally: &mut Tally,
) -> Vec<String> {
    let all = all_is_wanted();
    let mut whole = Run::new(script);
    prepare(&whole.disk);
    let before = whole.disk.operations();
    let ran = caught(|| whole.run(&script.ops));
    if let Err(what) = ran {
        return vec![format!("script={} without a cut: {what}", script.name)];
    }
    let after = whole.disk.operations();
    drop(whole);
    let mut cuts: Vec<u64> = (before..=after).collect();
    let seeds = number("AKASHA_SEED").map_or(1..=effort.seeds, |seed| seed..=seed);
    if let Some(only) = number("AKASHA_CUT") {
        cuts = vec![only];
    } else if !all && cuts.len() > effort.cuts {
        let dice = SeededEntropy::new(seeds.start() ^ after);
        while cuts.len() > effort.cuts {
            cuts.swap_remove(dice.next_u64() as usize % cuts.len());
        }
        cuts.sort_unstable();
    }
    let mut failures = Vec::new();
    for cut in cuts {
        tally.cuts += 1;
        let mut run = Run::new(script);
        prepare(&run.disk);
        run.disk.cut_at(cut);
        run.talks = number("AKASHA_CUT").is_some();
        let place = format!(
            "AKASHA_SCRIPT={} AKASHA_ORDER={} AKASHA_CUT={cut}",
            script.name, script.in_order
        );
        if let Err(what) = caught(|| run.run(&script.ops)) {
            failures.push(format!("{place}: {what}"));
            continue;
        }
        let look = |disk: &SimDisk, _: &[CrashRule]| {
            let seen = judge(disk, &run.clock, &run.oracle)?;
            use_on(disk, &run.clock, &seen)
        };
        let wanted = env("AKASHA_RULE");
        let count = if all || wanted.is_some() { usize::MAX } else { effort.rules };
        for seed in seeds.clone() {
            for rule in rules(&run, seed.wrapping_mul(1000) + cut, count) {
                if wanted.as_ref().is_some_and(|wanted| *wanted != format!("{rule:?}")) {
                    continue;
                }
                let disk = (&run.disk, &run.clock);
                if let Err(what) = caught(|| crash(disk, &rule, &look, (cut, 2), tally)) {
                    let replay = format!("{place} AKASHA_SEED={seed} AKASHA_RULE='{rule:?}'");
                    failures.push(format!("{replay}: {what}"));
                }
            }
        }
    }
    failures
}

fn report(failures: &[String], tally: &Tally) {
    eprintln!("{tally:?}");
    // One of each cut is enough to begin with.
    let mut shown: Vec<&String> = Vec::new();
    for failure in failures {
        let place = |text: &str| text.split(" AKASHA_RULE").next().map(str::to_owned);
        if shown.last().is_none_or(|last| place(last) != place(failure)) {
            shown.push(failure);
        }
    }
    let list: Vec<String> = shown.into_iter().take(24).cloned().collect();
    assert!(failures.is_empty(), "{} failures, such as:\n{}", failures.len(), list.join("\n"));
}

fn torture_all(scripts: Vec<Script>, effort: Effort) {
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    let wanted = env("AKASHA_SCRIPT");
    for script in scripts {
        if wanted.as_ref().is_some_and(|wanted| *wanted != script.name) {
            continue;
        }
        for in_order in orders() {
            let script = Script { in_order, ..script.clone() };
            failures.extend(torture(&script, effort, &|_| {}, &mut tally));
        }
        if is_enough(&failures) {
            break;
        }
    }
    report(&failures, &tally);
}

#[test]
fn a_cut_leaves_every_file_old_or_new() {
    torture_all(scripts::written(), Effort { cuts: 24, rules: 6, seeds: 1 });
}

/// Orders of changes that few of many ways to lose some of them show.
#[test]
fn a_rare_order_of_unsynced_names_loses_nothing() {
    let names = [
        "into a new directory",
        "a directory under a removed one's name",
        "an unlinked name taken twice",
        "over a directory that had a long name",
    ];
    let scripts = names.into_iter().map(scripts::named).collect();
    torture_all(scripts, Effort { cuts: 999, rules: 99, seeds: 8 });
}

/// Every call at which the power can go off while a file without a name gets one.
#[test]
fn a_cut_around_a_first_name_loses_nothing_that_was_synced() {
    let names = ["nameless", "nameless and synced"];
    let scripts = names.into_iter().map(scripts::named).collect();
    torture_all(scripts, Effort { cuts: 999, rules: 12, seeds: 2 });
}

/// Every call at which the power can go off while two names are exchanged, and while they are given back.
#[test]
fn a_cut_around_an_exchange_leaves_both_or_neither() {
    let names =
        ["an exchange alone", "an exchange and back", "an exchange of what replaced others"];
    let scripts = names.into_iter().map(scripts::named).collect();
    torture_all(scripts, Effort { cuts: 999, rules: 12, seeds: 1 });
}

#[test]
fn a_cut_in_a_random_script_leaves_every_file_old_or_new() {
    let first = number("AKASHA_FIRST").unwrap_or(1);
    let count = number("AKASHA_RUNS").unwrap_or(12);
    let len = number("AKASHA_OPS").unwrap_or(80) as usize;
    let scripts = (first..first + count).map(|seed| scripts::random(seed, len)).collect();
    torture_all(scripts, Effort { cuts: 10, rules: 6, seeds: 1 });
}

/// The operations without which a script of hard links does not fail, and how it does with them alone: as `fails` says, who is
/// told how it did with one more.
fn shrunk<T>(
    ops: &[linked::Op],
    mut failure: T,
    fails: impl Fn(&[linked::Op], &T) -> Option<T>,
) -> (Vec<linked::Op>, T) {
    let mut ops = ops.to_vec();
    loop {
        let before = ops.len();
        for at in (0..before).rev() {
            let mut fewer = ops.clone();
            fewer.remove(at);
            if let Some(failed) = fails(&fewer, &failure) {
                (ops, failure) = (fewer, failed);
            }
        }
        if ops.len() == before {
            return (ops, failure);
        }
    }
}

/// Tries cuts of a script of hard links, on a disk that keeps the order of names or on one that does not.
fn torture_linked(
    name: &str,
    ops: &[linked::Op],
    in_order: bool,
    effort: Effort,
    tally: &mut Tally,
) -> Vec<String> {
    let mut whole = linked::Run::new(in_order);
    let before = whole.disk.operations();
    if let Err(what) = caught(|| whole.run(ops)) {
        let fails = |ops: &[_], _: &_| caught(|| linked::Run::new(in_order).run(ops)).err();
        let (ops, least) = shrunk(ops, what.clone(), fails);
        return vec![format!(
            "AKASHA_SCRIPT='{name}' in order {in_order} without a cut: {what}\n{least}: {ops:?}"
        )];
    }
    let after = whole.disk.operations();
    let all = all_is_wanted();
    let dice = SeededEntropy::new(after);
    let mut cuts: Vec<u64> = match number("AKASHA_CUT") {
        Some(only) => vec![only],
        None => (before..=after).collect(),
    };
    while !all && cuts.len() > effort.cuts {
        cuts.swap_remove(dice.next_u64() as usize % cuts.len());
    }
    let mut failures = Vec::new();
    for cut in cuts {
        tally.cuts += 1;
        let place = format!("AKASHA_SCRIPT='{name}' AKASHA_ORDER={in_order} AKASHA_CUT={cut}");
        let mut run = linked::Run::new(in_order);
        run.disk.cut_at(cut);
        run.talks = number("AKASHA_CUT").is_some();
        if let Err(what) = caught(|| run.run(ops)) {
            failures.push(format!("{place}: {what}"));
            continue;
        }
        let mut rules = run.disk.rules(cut..cut + number("AKASHA_SEEDS").unwrap_or(4));
        while !all && rules.len() > effort.rules {
            rules.swap_remove(2 + dice.next_u64() as usize % (rules.len() - 2));
        }
        for rule in rules {
            let look = |disk: &SimDisk, rules: &[CrashRule]| linked::judge(&run, disk, rules);
            let twice = u64::from(dice.next_u64().is_multiple_of(4));
            let disk = (&run.disk, &run.clock);
            if let Err(what) = caught(|| crash(disk, &rule, &look, (cut, twice), tally)) {
                failures.push(format!("{place} AKASHA_RULE='{rule:?}': {what}"));
            }
        }
    }
    failures
}

#[test]
fn a_cut_leaves_hard_links_whole() {
    let (mut failures, mut tally) = (Vec::new(), Tally::default());
    let wanted = |name: &str| env("AKASHA_SCRIPT").is_none_or(|wanted| wanted == name);
    for (name, ops) in linked::written() {
        if wanted(name) && !is_enough(&failures) {
            for in_order in orders() {
                let effort = Effort { cuts: 40, rules: 8, seeds: 1 };
                failures.extend(torture_linked(name, &ops, in_order, effort, &mut tally));
            }
        }
    }
    let first = number("AKASHA_FIRST").unwrap_or(1);
    for seed in first..first + number("AKASHA_RUNS").unwrap_or(20) {
        let name = format!("random {seed}");
        if wanted(&name) && !is_enough(&failures) {
            let ops = linked::random(seed, number("AKASHA_OPS").unwrap_or(40) as usize);
            for in_order in orders() {
                let effort = Effort { cuts: 12, rules: 6, seeds: 1 };
                failures.extend(torture_linked(&name, &ops, in_order, effort, &mut tally));
            }
        }
    }
    report(&failures, &tally);
}

#[test]
fn a_disk_that_lies_is_found_out() {
    // A sync of a file, of a directory, of all that does nothing; a rename of which a cut leaves half.
    for (kind, scripts) in [
        (CallKind::Sync, &["fsync", "replace"][..]),
        (CallKind::SyncDir, &["fsync", "replace"]),
        (CallKind::SyncAll, &["many"]),
        (CallKind::Rename, &["replace", "directories"]),
    ] {
        let mut tally = Tally::default();
        let mut found = 0;
        for name in scripts {
            let script = scripts::named(name);
            let effort = Effort { cuts: 24, rules: 8, seeds: 1 };
            found += torture(&script, effort, &|disk| disk.lie(kind), &mut tally).len();
            if found > 0 {
                break;
            }
        }
        assert!(found > 0, "a disk that lies about {kind:?} passes: {tally:?}");
    }
}

/// The codes that a call can give. EINTR comes from calls that `OsDisk` must not repeat: those that change names
/// (the change may have happened) and syncs.
fn codes(kind: CallKind) -> &'static [i32] {
    const OPENS: &[i32] = &[libc::EIO, libc::EMFILE, libc::ENFILE];
    const GROWS: &[i32] = &[libc::EIO, libc::ENOSPC, libc::EDQUOT];
    const NAMES: &[i32] = &[libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EINTR];
    const OPENS_AND_GROWS: &[i32] =
        &[libc::EIO, libc::ENOSPC, libc::EDQUOT, libc::EMFILE, libc::ENFILE];
    match kind {
        // A listing and an attribute of a name open a descriptor of their own.
        CallKind::OpenDir
        | CallKind::Open
        | CallKind::OpenTemp
        | CallKind::List
        | CallKind::GetXattr
        | CallKind::ListXattrs => OPENS,
        CallKind::CreateTemp | CallKind::SetXattr | CallKind::Lock => OPENS_AND_GROWS,
        CallKind::Write | CallKind::WriteNote | CallKind::Reserve | CallKind::SetLen => GROWS,
        CallKind::Mkdir
        | CallKind::Rename
        | CallKind::Link
        | CallKind::Unlink
        | CallKind::Rmdir
        | CallKind::Sync
        | CallKind::SyncDir
        | CallKind::SyncAll => NAMES,
        CallKind::Map => &[libc::EIO, libc::ENOMEM, libc::ENFILE],
        CallKind::Root
        | CallKind::Stat
        | CallKind::Space
        | CallKind::Read
        | CallKind::CopyOut
        | CallKind::SetAttr
        | CallKind::StartWriteback => &[libc::EIO],
    }
}

#[test]
fn a_failed_call_is_told_or_harmless() {
    let all = all_is_wanted();
    let wanted = env("AKASHA_SCRIPT");
    let mut failures = Vec::new();
    let mut tried = 0;
    for script in scripts::written() {
        if wanted.as_ref().is_some_and(|wanted| *wanted != script.name) {
            continue;
        }
        let dice = SeededEntropy::new(number("AKASHA_SEED").unwrap_or(1));
        for (kind, count) in faulty::counts(&script).expect("runs on a disk without faults") {
            let mut faults = Vec::new();
            for nth in 1..=count {
                for code in codes(kind) {
                    for stays in [false, true] {
                        // What a failed rename began cannot be taken back where all renames fail.
                        if stays && kind == CallKind::Rename {
                            continue;
                        }
                        faults.push(faulty::Fault { kind, nth, code: *code, stays });
                    }
                }
            }
            let replays = env("AKASHA_FAULT").is_some();
            while !all && !replays && faults.len() > codes(kind).len() {
                faults.swap_remove(dice.next_u64() as usize % faults.len());
            }
            for fault in faults {
                let shown = format!("{fault:?}");
                if env("AKASHA_FAULT").is_some_and(|wanted| wanted != shown) {
                    continue;
                }
                tried += 1;
                if let Err(what) = caught(|| faulty::run(&script, fault)) {
                    let name = &script.name;
                    failures.push(format!("AKASHA_SCRIPT='{name}' AKASHA_FAULT='{shown}': {what}"));
                    if is_enough(&failures) {
                        break;
                    }
                }
            }
        }
    }
    eprintln!("{tried} faults");
    let list: Vec<String> = failures.iter().take(40).cloned().collect();
    assert!(failures.is_empty(), "{} failures, such as:\n{}", failures.len(), list.join("\n"));
}

/// Tries faults in a script of hard links: `count` of each kind of call, three times as many of those about names, and no
/// more than nine times as many.
fn fail_linked(
    name: &str,
    ops: &[linked::Op],
    in_order: bool,
    count: usize,
    tried: &mut u64,
) -> Vec<String> {
    let counts = match caught(|| linked_faults::counts(ops, in_order)) {
        Ok(counts) => counts,
        Err(what) => return vec![format!("AKASHA_SCRIPT='{name}' without a fault: {what}")],
    };
    let dice = SeededEntropy::new(number("AKASHA_SEED").unwrap_or(1));
    let below = |n: usize| (dice.next_u64() >> 8) as usize % n;
    let wanted = env("AKASHA_FAULT");
    let mut faults = Vec::new();
    for (kind, calls) in counts {
        let mut of_kind = Vec::new();
        for nth in 1..=calls {
            let codes = codes(kind);
            let drawn = [codes[below(codes.len())]];
            for code in if wanted.is_some() { codes } else { &drawn[..] } {
                for stays in [false, true] {
                    // What a failed rename began cannot be taken back where all renames fail.
                    if !stays || kind != CallKind::Rename {
                        of_kind.push(faulty::Fault { kind, nth, code: *code, stays });
                    }
                }
            }
        }
        // Most of what can go wrong with names goes wrong at these.
        let is_of_names =
            matches!(kind, CallKind::Unlink | CallKind::Rename | CallKind::Link | CallKind::Stat);
        let count = if is_of_names { 3 * count } else { count };
        while wanted.is_none() && of_kind.len() > count {
            of_kind.swap_remove(below(of_kind.len()));
        }
        faults.extend(of_kind);
    }
    while wanted.is_none() && faults.len() > 9 * count {
        faults.swap_remove(below(faults.len()));
    }
    let mut failures = Vec::new();
    for fault in faults {
        let shown = format!("{fault:?}");
        if wanted.as_ref().is_some_and(|wanted| *wanted != shown) {
            continue;
        }
        *tried += 1;
        if let Err(what) = caught(|| linked_faults::run(ops, in_order, fault, wanted.is_some())) {
            let place = format!("AKASHA_SCRIPT='{name}' AKASHA_ORDER={in_order}");
            failures.push(format!("{place} AKASHA_FAULT='{shown}': {what}"));
            if wanted.is_some() {
                let run =
                    |ops: &[_], fault| caught(|| linked_faults::run(ops, in_order, fault, false));
                // With fewer operations before it the call has another number.
                let (ops, fault) = shrunk(ops, fault, |fewer, fault| {
                    let mut earlier =
                        (1..=fault.nth).rev().map(|nth| faulty::Fault { nth, ..*fault });
                    earlier.find(|fault| run(fewer, *fault).is_err())
                });
                let what = run(&ops, fault);
                failures.push(format!("the least of it, {ops:?} with {fault:?}: {what:?}"));
            }
            if is_enough(&failures) {
                break;
            }
        }
    }
    failures
}

/// `AKASHA_CUTS=all` tries every call of every script, `AKASHA_FAULTS` so many times as many as usual; `AKASHA_RUNS`, `AKASHA_FIRST`
/// and `AKASHA_OPS` say which random scripts.
#[test]
fn a_failed_call_leaves_hard_links_whole() {
    let (mut failures, mut tried) = (Vec::new(), 0);
    let wanted = |name: &str| env("AKASHA_SCRIPT").is_none_or(|wanted| wanted == name);
    let first = number("AKASHA_FIRST").unwrap_or(1);
    let randoms = (first..first + number("AKASHA_RUNS").unwrap_or(8)).map(|seed| {
        let ops = linked::random(seed, number("AKASHA_OPS").unwrap_or(25) as usize);
        (format!("random {seed}"), ops)
    });
    let written = linked::written().into_iter().map(|(name, ops)| (name.to_owned(), ops));
    for (name, ops) in written.chain(randoms) {
        if wanted(&name) && !is_enough(&failures) {
            for in_order in orders() {
                let few = number("AKASHA_FAULTS").unwrap_or(1) as usize;
                let count = if all_is_wanted() { usize::MAX / 9 } else { few };
                failures.extend(fail_linked(&name, &ops, in_order, count, &mut tried));
            }
        }
    }
    eprintln!("{tried} faults");
    let list: Vec<String> = failures.iter().take(40).cloned().collect();
    assert!(failures.is_empty(), "{} failures, such as:\n{}", failures.len(), list.join("\n"));
}

#[test]
fn a_mount_that_a_call_fails_is_refused_or_whole() {
    let mut failures = Vec::new();
    let mut tried = 0;
    for (name, part) in
        [("many", 2), ("replace", 3), ("mapped", 3), ("exchange", 2), ("long names", 3)]
    {
        let script = scripts::named(name);
        let mut whole = Run::new(&script);
        whole.run(&script.ops).expect("runs on a disk without faults");
        let mut run = Run::new(&script);
        run.disk.cut_at(whole.disk.operations() * part / 4);
        run.run(&script.ops).expect("runs until the cut");
        let counted = run.disk.crash(&CrashRule::Everything);
        let store = mount(&counted, &run.clock, 0xaa).expect("mounts what a cut left");
        view(&store).expect("shows what a cut left");
        for (kind, count) in counted.counters().calls {
            for (nth, code) in (1..=count).flat_map(|nth| codes(kind).iter().map(move |c| (nth, c)))
            {
                for stays in [false, true] {
                    let fault = faulty::Fault { kind, nth, code: *code, stays };
                    tried += 1;
                    if let Err(what) = caught(|| mount_with(&run, fault)) {
                        failures.push(format!("{name:?}, {fault:?}: {what}"));
                    }
                }
            }
        }
    }
    eprintln!("{tried} faults");
    let list: Vec<String> = failures.iter().take(40).cloned().collect();
    assert!(failures.is_empty(), "{} failures, such as:\n{}", failures.len(), list.join("\n"));
}
