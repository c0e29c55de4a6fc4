//! Random sequences of operations on a filesystem and on a naive model of POSIX: same results, same
//! error numbers, same tree.
//!
//! `AKASHA_SEED=n` says with which seed to begin (alone: only that), `AKASHA_RUNS` and `AKASHA_OPS` how many and
//! how long. A failure prints
//! its seed and a shortened list of operations that still fails. An operation that does not end is a
//! failure, too: the process is ended, with the seed.

#[path = "model/driver.rs"]
mod driver;
#[path = "model/op.rs"]
mod op;
#[path = "model/reference.rs"]
mod reference;
#[path = "model/space.rs"]
mod space;
#[path = "model/vault.rs"]
mod vault;
#[path = "model/xattrs.rs"]
mod xattrs;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use driver::Driver;
use op::{Op, Rng};
use vault::TestVault;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

fn ops(seed: u64, count: u64) -> Vec<Op> {
    let mut rng = Rng::new(seed);
    (0..count).map(|_| Op::random(&mut rng)).collect()
}

/// Operations begun so far, over all runs.
static BEGUN: AtomicU64 = AtomicU64::new(0);
/// The seed that runs, and the operation.
static SEED: AtomicU64 = AtomicU64::new(0);
static INDEX: AtomicU64 = AtomicU64::new(0);

/// No operation takes this long, unless it waits for itself.
const STUCK: Duration = Duration::from_mins(1);

fn watch() {
    std::thread::spawn(|| {
        loop {
            let before = BEGUN.load(Ordering::Relaxed);
            std::thread::sleep(STUCK);
            if BEGUN.load(Ordering::Relaxed) == before {
                let (seed, index) = (SEED.load(Ordering::Relaxed), INDEX.load(Ordering::Relaxed));
                eprintln!("AKASHA_SEED={seed}: operation {index} does not end");
                std::process::abort();
            }
        }
    });
}

/// Runs the operations on a fresh vault; tells what differs, and after which operation.
fn run(seed: u64, ops: &[Op]) -> Result<(), String> {
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut driver = Driver::new(TestVault::new(seed));
        for (index, op) in ops.iter().enumerate() {
            BEGUN.fetch_add(1, Ordering::Relaxed);
            INDEX.store(index as u64, Ordering::Relaxed);
            driver.apply(op).map_err(|what| format!("operation {index}, {op:?}: {what}"))?;
            if index % 16 == 15 {
                driver
                    .compare_trees()
                    .map_err(|what| format!("after operation {index}: {what}"))?;
            }
        }
        driver.finish()
    }));
    ran.unwrap_or_else(|panic| {
        let words = panic.downcast_ref::<String>().map(String::as_str);
        let words = words.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panic: {}", words.unwrap_or("?")))
    })
}

/// Takes pieces out of a failing sequence as long as it still fails.
fn shorten(seed: u64, mut ops: Vec<Op>) -> Vec<Op> {
    let mut piece = ops.len() / 2;
    let mut tries = 400;
    while piece > 0 {
        let mut at = 0;
        while at < ops.len() && tries > 0 {
            tries -= 1;
            let mut fewer = ops.clone();
            fewer.drain(at..(at + piece).min(ops.len()));
            if run(seed, &fewer).is_err() {
                ops = fewer;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    ops
}

#[test]
fn the_filesystem_does_what_the_model_does() {
    let seed = number("AKASHA_SEED");
    let first = seed.unwrap_or(1);
    let runs = number("AKASHA_RUNS").unwrap_or(if seed.is_some() { 1 } else { 20 });
    let count = number("AKASHA_OPS").unwrap_or(400);
    watch();
    for seed in first..first + runs {
        SEED.store(seed, Ordering::Relaxed);
        let all = ops(seed, count);
        if let Err(what) = run(seed, &all) {
            let short = shorten(seed, all);
            let last = run(seed, &short).expect_err("a shortened sequence still fails");
            let list: Vec<String> = short.iter().map(|op| format!("  {op:?}")).collect();
            panic!(
                "AKASHA_SEED={seed} AKASHA_OPS={count}: {what}\nshortened to {} operations: {last}\n{}",
                short.len(),
                list.join("\n"),
            );
        }
    }
}
