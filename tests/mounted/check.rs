//! `akasha check` beside a mount that is written to, and of a vault that was damaged.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::harness::{Mount, Random, Vault, akasha, setting};

fn check(vault: &Vault) -> Command {
    let mut command = akasha();
    command.arg("check").arg(vault.dir()).arg("--password-file").arg(vault.password_file());
    command
}

/// Exit code and output.
fn checked(vault: &Vault) -> (i32, String) {
    let output = check(vault).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text + &errors)
}

/// One round of everything that publishes, moves and removes.
fn churn(mount: &Mount, random: &mut Random, round: u64) {
    let (a, b) = (mount.path("a"), mount.path("b"));
    let large = File::options().write(true).open(mount.path("large")).unwrap();
    large.write_all_at(&random.bytes(9000), random.below(2 << 20)).unwrap();
    large.sync_all().unwrap();
    let name = format!("f{}", round % 7);
    fs::write(a.join("new"), random.bytes(30_000)).unwrap();
    File::open(a.join("new")).unwrap().sync_all().unwrap();
    fs::rename(a.join("new"), a.join(&name)).unwrap();
    if round.is_multiple_of(3) {
        let _ = fs::remove_file(b.join("linked"));
        fs::hard_link(a.join(&name), b.join("linked")).unwrap();
        File::open(b.join("linked")).unwrap().sync_all().unwrap();
        fs::rename(a.join(&name), b.join(format!("moved{}", round % 5))).unwrap();
    }
    let dir = a.join("l".repeat(240));
    if round.is_multiple_of(4) {
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("x"), b"x").unwrap();
        File::open(dir.join("x")).unwrap().sync_all().unwrap();
    } else if round % 4 == 3 {
        fs::remove_dir_all(&dir).unwrap();
    }
}

#[test]
fn a_check_beside_a_writer_gives_no_false_alarm() {
    let Some(mount) = Mount::new() else { return };
    let mut random = Random(7);
    for dir in ["a", "b"] {
        fs::create_dir(mount.path(dir)).unwrap();
    }
    fs::write(mount.path("large"), random.bytes(3 << 20)).unwrap();
    let end = Instant::now() + Duration::from_secs(setting("AKASHA_CHECK_SECONDS", 10));
    let is_over = AtomicBool::new(false);
    let rounds = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut round = 0;
            while !is_over.load(Ordering::Relaxed) {
                churn(&mount, &mut random, round);
                round += 1;
            }
            round
        });
        while Instant::now() < end && !writer.is_finished() {
            let (code, text) = checked(&mount.vault);
            if code != 0 {
                is_over.store(true, Ordering::Relaxed);
            }
            assert_eq!(code, 0, "{text}");
        }
        is_over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert!(rounds > 0);
    let vault = mount.unmount();
    let (code, text) = checked(&vault);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with(": 0 damaged, 0 notes\n"), "{text}");
}

#[test]
fn a_damaged_block_is_named_with_its_path_and_its_bytes() {
    let Some(mount) = Mount::new() else { return };
    fs::create_dir(mount.path("dir")).unwrap();
    fs::write(mount.path("dir/big file"), Random(3).bytes(1 << 20)).unwrap();
    fs::write(mount.path("dir/whole"), b"whole").unwrap();
    let vault = mount.unmount();
    let files = vault.files();
    let big = files.iter().find(|file| fs::metadata(file).unwrap().len() > 1 << 20).unwrap();
    let file = File::options().read(true).write(true).open(big).unwrap();
    let mut byte = [0];
    let at = 64 + 10 * 4112 + 5;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    let (code, text) = checked(&vault);
    assert_eq!(code, 20, "{text}");
    let line = "dir/big file: blocks do not authenticate (bytes 40960-45055); ";
    assert!(text.starts_with(line), "{text}");
    assert!(text.contains(": 1 damaged, 0 notes\n"), "{text}");
    let json = check(&vault).arg("--json").output().unwrap();
    let json = String::from_utf8(json.stdout).unwrap();
    assert!(json.contains("\"kind\":\"content\""), "{json}");
    assert!(json.contains("\"ranges\":[[40960,45056]]"), "{json}");
    assert_eq!(json.lines().count(), 2, "{json}");
}
