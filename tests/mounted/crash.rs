//! The daemon dies at any moment; the next mount needs no help and shows whole, fsynced, visible files.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{
    Mount, Random, Setup, akasha, big, detach, python, setting, signal, succeed, umount,
};

fn with_commit(interval: &str) -> Setup {
    Setup { mount_args: vec!["--commit".into(), interval.into()], ..Setup::default() }
}

/// A program that runs until its mount dies; what it prints goes to a file on the bare disk.
fn start(mount: &Mount, program: &str, args: &[&str], output: &std::path::Path) -> Child {
    let output = File::options().create(true).append(true).open(output).unwrap();
    let dir = mount.path("work");
    let mut command = python(program, &dir, args);
    command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
    command.spawn().expect("Python is there")
}

#[test]
fn a_killed_daemon_leaves_every_file_old_or_new_and_what_was_synced() {
    let Some(mut mount) = Mount::with(with_commit("0.1")) else { return };
    let mut random = Random::new();
    let rounds = setting("AKASHA_KILL_ROUNDS", if big() { 300 } else { 15 });
    for round in 0..rounds {
        let log = mount.vault.place().join("said");
        let _ = fs::remove_file(&log);
        let work = mount.path("work");
        if work.exists() {
            fs::remove_dir_all(&work).unwrap();
        }
        fs::create_dir(&work).unwrap();
        File::open(mount.vault.mountpoint()).unwrap().sync_all().unwrap();
        let mut program = start(&mount, "crash.py", &["run", &random.next().to_string()], &log);
        let alive_ms = 50 + random.below(900);
        thread::sleep(Duration::from_millis(alive_ms));
        let vault = mount.kill();
        let _ = program.wait();
        mount = vault.mount();
        let left = mount.vault.leftovers();
        assert!(left.is_empty(), "round {round}: not swept: {left:?}");
        let report = mount.python_in("work", "crash.py", &["check", log.to_str().expect("UTF-8")]);
        eprint!("round {round}, killed after {alive_ms} ms: {report}");
    }
    mount = mount.remount();
    assert!(mount.path("work").exists());
    mount.unmount();
}

fn sqlite_survives(mode: &str) {
    let Some(mut mount) = Mount::with(with_commit("0.2")) else { return };
    let mut random = Random::new();
    for round in 0..4 {
        let log = mount.vault.place().join(format!("said {round}"));
        if mount.path("work").exists() {
            fs::remove_dir_all(mount.path("work")).unwrap();
        }
        fs::create_dir(mount.path("work")).unwrap();
        let mut program = start(&mount, "sqlite_rows.py", &["run", mode], &log);
        let begun = Instant::now();
        while fs::read_to_string(&log).unwrap_or_default().lines().count() < 5 {
            assert!(begun.elapsed() < Duration::from_mins(1), "SQLite does not get going");
            thread::sleep(Duration::from_millis(5));
        }
        thread::sleep(Duration::from_millis(random.below(600)));
        let vault = mount.kill();
        let _ = program.kill();
        let _ = program.wait();
        mount = vault.mount();
        let said = fs::read_to_string(&log).unwrap();
        let complete = said.rsplit_once('\n').map_or("", |(complete, _)| complete);
        let committed = complete.lines().last().unwrap_or("0");
        mount.python_in("work", "sqlite_rows.py", &["check", mode, committed]);
    }
    mount.unmount();
}

#[test]
fn sqlite_with_a_rollback_journal_survives_a_killed_daemon() {
    sqlite_survives("DELETE");
}

#[test]
fn sqlite_with_a_write_ahead_log_survives_a_killed_daemon() {
    sqlite_survives("WAL");
}

#[test]
fn what_was_never_committed_is_absent_after_a_kill() {
    let Some(mount) = Mount::with(with_commit("60")) else { return };
    fs::write(mount.path("synced"), b"old").unwrap();
    File::open(mount.path("synced")).unwrap().sync_all().unwrap();
    // A handle that stays open, half written, and a save that was never synced.
    let mut open = File::create(mount.path("half")).unwrap();
    open.write_all(&vec![1; 3 << 20]).unwrap();
    let mut replaced = File::create(mount.path("synced")).unwrap();
    replaced.write_all(b"half of the new").unwrap();
    let vault = mount.kill();
    drop((open, replaced));
    let mount = vault.mount();
    assert_eq!(fs::read(mount.path("synced")).unwrap(), b"old");
    assert!(!mount.path("half").exists());
    assert_eq!(fs::read_dir(mount.vault.mountpoint()).unwrap().count(), 1);
    mount.unmount();
}

#[test]
fn a_closed_file_is_committed_within_the_interval() {
    let Some(mount) = Mount::with(with_commit("0.5")) else { return };
    fs::write(mount.path("closed"), b"whole").unwrap();
    thread::sleep(Duration::from_millis(2500));
    let mount = mount.kill().mount();
    assert_eq!(fs::read(mount.path("closed")).unwrap(), b"whole");
    mount.unmount();
}

#[test]
fn with_commit_close_a_closed_file_is_committed_at_once() {
    let Some(mut mount) = Mount::with(with_commit("close")) else { return };
    for round in 0..5_usize {
        let content = vec![round as u8; 10 + round * 100_000];
        fs::create_dir(mount.path(format!("dir {round}"))).unwrap();
        fs::write(mount.path(format!("dir {round}/file")), &content).unwrap();
        fs::write(mount.path("rewritten"), &content).unwrap();
        mount = mount.kill().mount();
        assert!(fs::read(mount.path(format!("dir {round}/file"))).unwrap() == content);
        assert!(fs::read(mount.path("rewritten")).unwrap() == content);
    }
    mount.unmount();
}

#[test]
fn sigterm_and_sigint_commit_everything_and_unmount() {
    let Some(mut mount) = Mount::with(with_commit("60")) else { return };
    for name in ["TERM", "INT"] {
        fs::write(mount.path(name), vec![7; 500_000]).unwrap();
        fs::create_dir(mount.path(format!("dir {name}"))).unwrap();
        fs::write(mount.path(format!("dir {name}/inside")), name).unwrap();
        let vault = mount.end_by(name);
        assert_eq!(vault.leftovers(), Vec::<std::path::PathBuf>::new());
        assert_eq!(fs::read_dir(vault.mountpoint()).unwrap().count(), 0, "still mounted");
        mount = vault.mount();
        assert!(fs::read(mount.path(name)).unwrap() == vec![7; 500_000]);
        assert_eq!(fs::read_to_string(mount.path(format!("dir {name}/inside"))).unwrap(), name);
    }
    mount.unmount();
}

#[test]
fn fusermount_and_umount_commit_everything() {
    let Some(mut mount) = Mount::with(with_commit("60")) else { return };
    for (number, program) in ["fusermount3 -u", "umount"].iter().enumerate() {
        let name = format!("file {number}");
        fs::write(mount.path(&name), vec![number as u8; 300_000]).unwrap();
        let mut words = program.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words).arg(mount.vault.mountpoint());
        let vault = mount.end_after(&mut command);
        mount = vault.mount();
        assert!(fs::read(mount.path(&name)).unwrap() == vec![number as u8; 300_000]);
    }
    mount.unmount();
}

#[test]
fn the_dead_mount_of_a_killed_daemon_is_no_obstacle_to_the_next() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), b"content").unwrap();
    File::open(mount.path("file")).unwrap().sync_all().unwrap();
    // Not detached: the mountpoint answers "transport endpoint is not connected".
    let vault = mount.kill_and_leave_the_dead_mount();
    let mountpoint = vault.mountpoint();
    succeed(&mut vault.mount_command());
    let found = fs::read(mountpoint.join("file"));
    umount(akasha().arg("umount").arg(&mountpoint));
    detach(&mountpoint);
    assert_eq!(found.unwrap(), b"content");
}

#[test]
fn a_daemon_killed_while_it_is_being_mounted_leaves_a_vault_that_mounts() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), b"content").unwrap();
    let mut vault = mount.unmount();
    let mut random = Random::new();
    for _ in 0..8 {
        let mut command = vault.mount_command();
        command.arg("--foreground").stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        thread::sleep(Duration::from_millis(random.below(150)));
        signal(child.id(), "KILL");
        let _ = child.wait();
        detach(&vault.mountpoint());
        let mount = vault.mount();
        assert_eq!(fs::read(mount.path("file")).unwrap(), b"content");
        vault = mount.unmount();
    }
}
