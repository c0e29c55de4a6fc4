//! Every kind of damage on a real disk: it can be deleted through the mount, and `akasha check --repair` mends the vault.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Mount, Random, Setup, Vault, akasha, secret, succeed};

/// An ordinary user.
const USER: u32 = 4321;

/// A vault with a directory of `owner` that holds a file for each kind of damage.
fn vault_to_damage(owner: u32) -> Option<Vault> {
    let mut setup = Setup::default();
    setup.mount_args.extend(["-o", "allow_other"].map(str::to_owned));
    let mount = Mount::with(setup)?;
    let dir = mount.path("dir");
    fs::create_dir_all(dir.join("inner")).unwrap();
    let mut random = Random(5);
    for (name, len) in [("name", 1000), ("cut", 10_001), ("header", 20_002), ("tail", 30_003)] {
        fs::write(dir.join(name), random.bytes(len)).unwrap();
    }
    fs::write(dir.join("inner/file"), b"inside").unwrap();
    fs::write(dir.join("layered"), random.bytes(600 << 10)).unwrap();
    let layered = File::options().write(true).open(dir.join("layered")).unwrap();
    layered.sync_all().unwrap();
    layered.write_all_at(&random.bytes(4096), 8192).unwrap();
    layered.sync_all().unwrap();
    drop(layered);
    for name in ["linked", "lost"] {
        fs::write(dir.join(name), random.bytes(if name == "lost" { 50_005 } else { 40_004 }))
            .unwrap();
        fs::hard_link(dir.join(name), dir.join("inner").join(name)).unwrap();
    }
    fs::write(dir.join("attribute"), random.bytes(60_006)).unwrap();
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.join("attribute"), "user.key", b"value", flags).unwrap();
    succeed(Command::new("chown").arg("-R").arg(owner.to_string()).arg(&dir));
    Some(mount.unmount())
}

/// The one file below `start` that is so long in the clear, of those that are simple.
fn file_of(vault: &Vault, start: &str, len: u64) -> PathBuf {
    let backing_len = 320 + len + len.div_ceil(4096) * 16;
    let mut files = vault.files();
    files.retain(|file| {
        file.starts_with(vault.dir().join(start))
            && fs::metadata(file).unwrap().len() == backing_len
    });
    assert_eq!(files.len(), 1, "{len}: {files:?}");
    files.remove(0)
}

fn flip(file: &Path, at: u64) {
    let open = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, at).unwrap();
    open.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

/// Does one of each kind.
fn damage(vault: &Vault, outside: &Path, owner: u32) {
    let name = file_of(vault, "", 1000);
    let dir = name.parent().unwrap().to_owned();
    fs::rename(&name, dir.join("AAAA")).unwrap();
    File::options().write(true).open(file_of(vault, "", 10_001)).unwrap().set_len(5000).unwrap();
    flip(&file_of(vault, "", 20_002), 30);
    let tail = file_of(vault, "", 30_003);
    flip(&tail, fs::metadata(&tail).unwrap().len() - 1);
    fs::remove_file(file_of(vault, ".akasha/layers", 600 << 10)).unwrap();
    let inode = file_of(vault, ".akasha/inodes", 40_004);
    flip(&inode.with_extension("stub"), 200);
    fs::remove_file(file_of(vault, ".akasha/inodes", 50_005)).unwrap();
    let attribute = file_of(vault, "", 60_006);
    let mut names = [0; 4096];
    let len = rustix::fs::listxattr(&attribute, &mut names).unwrap();
    let mut keys = names[..len].split(|byte| *byte == 0);
    let key = keys.find(|key| key.starts_with(b"user.akasha.")).unwrap();
    rustix::fs::setxattr(&attribute, key, b"junk", rustix::fs::XattrFlags::empty()).unwrap();
    fs::create_dir(dir.join("foreign directory")).unwrap();
    fs::write(dir.join("foreign directory/file"), b"foreign").unwrap();
    fs::write(dir.join("notes (conflicted copy).txt"), b"foreign").unwrap();
    symlink(outside, dir.join("symlink")).unwrap();
    for path in ["foreign directory", "foreign directory/file", "notes (conflicted copy).txt"] {
        chown(dir.join(path), Some(owner), None).unwrap();
    }
    std::os::unix::fs::lchown(dir.join("symlink"), Some(owner), None).unwrap();
}

/// Exit code and output.
fn check(vault: &Vault, args: &[&str]) -> (i32, String) {
    let mut command = akasha();
    command.arg("check").arg(vault.dir()).arg("--password-file").arg(vault.password_file());
    let output = command.args(args).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), text + &String::from_utf8_lossy(&output.stderr))
}

fn everything_can_be_deleted(owner: u32) {
    let Some(vault) = vault_to_damage(owner) else { return };
    let outside = vault.place().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), b"precious").unwrap();
    damage(&vault, &outside, owner);
    succeed(Command::new("chmod").arg("755").args([vault.place(), &vault.dir()]));
    let (code, text) = check(&vault, &[]);
    assert_eq!(code, 20, "{text}");
    let mount = vault.mount();
    let dir = mount.path("dir");
    // One by one where a name is there, then all that is left.
    for name in ["cut", "header", "tail", "layered", "linked", "lost", "attribute"] {
        let remove = ["--reuid", &owner.to_string(), "--clear-groups", "rm", "-f"];
        succeed(Command::new("setpriv").args(remove).arg(dir.join(name)));
        assert!(fs::symlink_metadata(dir.join(name)).is_err(), "{name}");
    }
    let left = fs::read_dir(&dir).unwrap().count();
    assert_eq!(left, 5, "inner, name, foreign file and directory, symlink");
    let script = format!("find '{}' -mindepth 1 -maxdepth 1 -exec rm -rf {{}} +", dir.display());
    let remove = ["--reuid", &owner.to_string(), "--clear-groups", "sh", "-c", &script];
    succeed(Command::new("setpriv").args(remove));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 0);
    fs::remove_dir(&dir).unwrap();
    let vault = mount.unmount();
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious");
    let (code, text) = check(&vault, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with(": 0 damaged, 0 notes\n"), "{text}");
    let mut left = vault.files();
    left.retain(|file| !["vault.toml", "clean", "reserve"].iter().any(|own| file.ends_with(own)));
    assert_eq!(left, [] as [PathBuf; 0]);
}

#[test]
fn everything_damaged_can_be_deleted_by_root() {
    everything_can_be_deleted(0);
}

#[test]
fn everything_damaged_can_be_deleted_by_its_owner() {
    everything_can_be_deleted(USER);
}

#[test]
fn a_vault_with_every_kind_of_damage_is_repaired() {
    let Some(vault) = vault_to_damage(USER) else { return };
    let outside = vault.place().join("outside");
    fs::create_dir(&outside).unwrap();
    damage(&vault, &outside, USER);
    let (code, text) = check(&vault, &["--repair", "--json"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.lines().all(|line| line.starts_with('{') && line.ends_with('}')), "{text}");
    for kind in ["moved", "salvaged", "named", "rebuilt", "detached"] {
        assert!(
            text.contains(&format!("{{\"type\":\"deed\",\"kind\":\"{kind}\"")),
            "{kind}: {text}"
        );
    }
    assert!(text.contains("\"path\":\"dir/cut\""), "{text}");
    let (code, text) = check(&vault, &["--repair"]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains(": moved to "), "nothing is left to do: {text}");
    assert_eq!(check(&vault, &[]).0, 0);
    let mount = vault.mount();
    let mut random = Random(5);
    let lens = [1000, 10_001, 20_002, 30_003];
    let plain: Vec<Vec<u8>> = lens.into_iter().map(|len| random.bytes(len)).collect();
    let dir = mount.path("dir");
    assert!(fs::read(dir.join("cut (salvaged)")).unwrap()[..4096] == plain[1][..4096]);
    assert!(fs::read(dir.join("tail (salvaged)")).unwrap() == plain[3]);
    let tail = fs::metadata(dir.join("tail (salvaged)")).unwrap();
    assert_eq!(tail.uid(), USER);
    assert_eq!(fs::metadata(dir.join("linked")).unwrap().nlink(), 2);
    let lost = mount.path("lost+found");
    let names = || fs::read_dir(&lost).unwrap().map(|entry| entry.unwrap());
    let named = names().find(|entry| entry.file_name().to_string_lossy().starts_with("file-"));
    assert!(fs::read(named.unwrap().path()).unwrap() == plain[0]);
    for name in ["cut", "header", "tail", "layered", "lost", "attribute attributes.txt"] {
        assert!(fs::symlink_metadata(lost.join(name)).is_ok(), "{name}");
    }
    // All of it can be deleted, and nothing stays behind.
    succeed(Command::new("rm").arg("-rf").args([&lost, &dir]));
    let vault = mount.unmount();
    let (code, text) = check(&vault, &[]);
    assert_eq!(code, 0, "{text}");
    assert!(text.ends_with(": 0 damaged, 0 notes\n"), "{text}");
}

#[test]
fn a_check_that_is_not_possible_says_why() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("file"), b"x").unwrap();
    let (code, text) = check(&mount.vault, &["--repair"]);
    assert_eq!(code, 9, "{text}");
    assert!(text.contains("is mounted already"), "{text}");
    let vault = mount.unmount();
    assert_eq!(check(&vault, &["--quiet"]), (0, String::new()));
    let wrong = vault.place().join("wrong");
    secret(&wrong, "another\n");
    let run = |dir: &Path, password: &Path| {
        let mut command = akasha();
        command.arg("check").arg(dir).arg("--password-file").arg(password);
        command.output().unwrap().status.code().unwrap()
    };
    assert_eq!(run(&vault.dir(), &wrong), 3);
    assert_eq!(run(vault.place(), &vault.password_file()), 5);
    // Whoever may not look at files learns nothing about them.
    let unprivileged = [&vault.dir(), &vault.password_file()];
    for path in unprivileged {
        succeed(Command::new("chown").arg("-R").arg(USER.to_string()).arg(path));
    }
    let place = vault.place();
    succeed(Command::new("chmod").arg("755").arg(place));
    let file = vault.files().into_iter().find(|file| fs::metadata(file).unwrap().len() == 337);
    let file = file.unwrap();
    chown(&file, Some(0), None).unwrap();
    succeed(Command::new("chmod").arg("600").arg(&file));
    let binary = place.join("akasha");
    fs::copy(akasha().get_program(), &binary).unwrap();
    for repair in [false, true] {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &USER.to_string(), "--clear-groups"]).arg(&binary);
        command.arg("check").arg(vault.dir()).arg("--password-file").arg(vault.password_file());
        let output = command.args(repair.then_some("--repair")).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(18), "{text}");
        assert!(text.contains("0 damaged, 0 notes; 1 could not be checked\n"), "{text}");
    }
}
