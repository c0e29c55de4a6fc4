//! Whoever can write the vault can take things away, but never make a reader see wrong bytes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Daemon, Mount, Random, Setup, Vault, big, setting, succeed};

/// What the mount shows: each path with the bytes of a file or the target of a link.
type Plain = BTreeMap<PathBuf, Vec<u8>>;

/// A vault with every form a file can have, and what it holds.
fn vault_of_every_form() -> Option<(Vault, Plain)> {
    let mount = Mount::with(Setup::default())?;
    let mut random = Random(99);
    let dir = mount.path("a directory");
    fs::create_dir_all(dir.join("inner")).unwrap();
    for (name, len) in
        [("empty", 0), ("tiny", 5), ("block", 4096), ("some blocks", 50_000), ("more", 60_000)]
    {
        fs::write(dir.join(name), random.bytes(len)).unwrap();
    }
    fs::write(dir.join("inner").join("l".repeat(250)), b"a long name").unwrap();
    std::os::unix::fs::symlink("inner/target", dir.join("link")).unwrap();
    // Changed in place after a commit: layers and maps, one of them with a hole.
    for (name, len) in [("changed", 8 << 20), ("holed", 3 << 20)] {
        let path = mount.path(name);
        fs::write(&path, random.bytes(len)).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.sync_all().unwrap();
        for round in 0..3_u64 {
            file.write_all_at(&random.bytes(4096), (round + 1) * 777_777).unwrap();
            file.sync_all().unwrap();
        }
        if name == "holed" {
            file.set_len(20 << 20).unwrap();
        }
    }
    // Replaced by rename: an entry that replaces another.
    fs::write(mount.path("replaced"), b"old").unwrap();
    File::open(mount.path("replaced")).unwrap().sync_all().unwrap();
    fs::write(mount.path("new"), b"the replacement").unwrap();
    fs::rename(mount.path("new"), mount.path("replaced")).unwrap();
    let mount = mount.remount();
    let mut plain = Plain::new();
    walk(&mount.vault.mountpoint(), Path::new(""), &mut |path, content| {
        plain.insert(path.to_owned(), content.expect("an untouched vault is readable"));
    });
    assert_eq!(plain.len(), 10, "{:?}", plain.keys());
    Some((mount.unmount(), plain))
}

/// Called with each path and what reading it gave.
type Visit<'a> = dyn FnMut(&Path, std::io::Result<Vec<u8>>) + 'a;

/// Visits every file and link below `root`; `Err` where reading failed.
fn walk(root: &Path, inside: &Path, visit: &mut Visit) {
    let Ok(entries) = fs::read_dir(root.join(inside)) else { return };
    for entry in entries {
        let Ok(entry) = entry else { return };
        let path = inside.join(entry.file_name());
        match fs::symlink_metadata(root.join(&path)) {
            Ok(found) if found.is_dir() => walk(root, &path, visit),
            Ok(found) if found.is_symlink() => {
                let target = fs::read_link(root.join(&path));
                visit(&path, target.map(|target| target.into_os_string().into_encoded_bytes()));
            }
            Ok(_) => visit(&path, fs::read(root.join(&path))),
            Err(why) => visit(&path, Err(why)),
        }
    }
}

/// Mounts and reads everything, also piece by piece: right bytes or an error, and a daemon that lives.
fn read_everything(vault: Vault, plain: &Plain, what: &str) -> Vault {
    let daemon = match Daemon::start(&vault) {
        Ok(daemon) => daemon,
        Err(said) => {
            // Refused: with words, not with a crash.
            assert!(said.contains("exit status"), "{what}: {said}");
            assert!(said.contains("error: ") && !said.contains("panicked"), "{what}: {said}");
            return vault;
        }
    };
    let mut mount = Mount::adopt(daemon, vault);
    let root = mount.vault.mountpoint();
    walk(&root, Path::new(""), &mut |path, content| match (plain.get(path), content) {
        (_, Err(_)) => {}
        (Some(expected), Ok(found)) => {
            assert!(&found == expected, "{what}: wrong bytes in {}", path.display());
        }
        (None, Ok(_)) => panic!("{what}: {} came from nowhere", path.display()),
    });
    // Around a damaged block the rest of the file stays readable and right.
    for (path, expected) in plain {
        let Ok(mut file) = File::open(root.join(path)) else { continue };
        if file.metadata().is_ok_and(|found| found.is_dir()) {
            continue;
        }
        let mut piece = vec![0; 4096];
        let middle = expected.len() / 2;
        if let Ok(len) = file.read_at(&mut piece, middle as u64) {
            let end = (middle + len).min(expected.len());
            assert!(piece[..len] == expected[middle..end], "{what}: wrong bytes in the middle");
        }
        let mut head = [0; 3];
        if let Ok(len) = file.read(&mut head) {
            assert!(expected.starts_with(&head[..len]), "{what}: wrong first bytes");
        }
    }
    assert!(mount.is_alive(), "{what}: the daemon died: {}", mount.log());
    mount.end_by("TERM")
}

/// Applies `damage` to a copy of `file`, reads everything, and puts the file back.
fn damaged(
    vault: Vault,
    plain: &Plain,
    file: &Path,
    what: &str,
    damage: impl FnOnce(&File),
) -> Vault {
    let aside = vault.place().join("aside");
    succeed(Command::new("cp").arg("-a").arg(file).arg(&aside));
    damage(&File::options().read(true).write(true).open(file).unwrap());
    let relative = file.strip_prefix(vault.dir()).expect("a file of the vault");
    let vault = read_everything(vault, plain, &format!("{what} of {}", relative.display()));
    fs::rename(&aside, file).unwrap();
    vault
}

#[test]
fn a_flipped_bit_anywhere_is_an_error_or_nothing() {
    let Some((mut vault, plain)) = vault_of_every_form() else { return };
    let mut random = Random::new();
    let rounds = setting("AKASHA_TAMPER_ROUNDS", if big() { 50 } else { 3 });
    for _ in 0..rounds {
        for file in vault.files() {
            let len = fs::metadata(&file).unwrap().len();
            if len == 0 {
                continue;
            }
            // Headers, maps and tails are small beside the blocks: half of the flips go there.
            let byte = match random.below(4) {
                0 => random.below(len.min(64)),
                1 => len - 1 - random.below(len.min(600)),
                _ => random.below(len),
            };
            let bit = random.below(8);
            let what = format!("bit {bit} of byte {byte} (of {len})");
            vault = damaged(vault, &plain, &file, &what, |file| {
                let mut value = [0];
                file.read_exact_at(&mut value, byte).unwrap();
                file.write_all_at(&[value[0] ^ 1 << bit], byte).unwrap();
            });
        }
    }
    // All put back: all there.
    let mount = vault.mount();
    let mut found = Plain::new();
    walk(&mount.vault.mountpoint(), Path::new(""), &mut |path, content| {
        found.insert(path.to_owned(), content.unwrap());
    });
    assert!(found == plain);
    mount.unmount();
}

#[test]
fn cutting_growing_and_zeroing_is_an_error_or_nothing() {
    let Some((mut vault, plain)) = vault_of_every_form() else { return };
    let mut random = Random::new();
    for file in vault.files() {
        let len = fs::metadata(&file).unwrap().len();
        let cuts = [0, 64, len / 2, len - len.min(256), len.saturating_sub(4112), len - len.min(1)];
        let cut = cuts[random.below(cuts.len() as u64) as usize];
        vault = damaged(vault, &plain, &file, &format!("cut to {cut} bytes"), |f| {
            f.set_len(cut).unwrap();
        });
        let more = [1, 16, 256, 4112][random.below(4) as usize];
        let what = format!("grown by {more} bytes");
        vault = damaged(vault, &plain, &file, &what, |file| file.set_len(len + more).unwrap());
        let (at, count) = (random.below(len.max(1)), 1 + random.below(5000));
        let count = count.min(len - at);
        let what = format!("{count} zeros at {at}");
        vault = damaged(vault, &plain, &file, &what, |file| {
            file.write_all_at(&vec![0; count as usize], at).unwrap();
        });
    }
}

#[test]
fn swapped_and_misplaced_files_are_an_error() {
    let Some((mut vault, plain)) = vault_of_every_form() else { return };
    let in_tree = |vault: &Vault| -> Vec<PathBuf> {
        let control = vault.dir().join(".akasha");
        let files = vault.files().into_iter();
        files.filter(|file| !file.starts_with(&control)).collect()
    };
    let files = in_tree(&vault);
    let mut random = Random::new();
    for round in 0..10 {
        // Two files change places: each name now opens to the other's content.
        let first = &files[random.below(files.len() as u64) as usize];
        let second = &files[random.below(files.len() as u64) as usize];
        if fs::metadata(first).unwrap().ino() == fs::metadata(second).unwrap().ino() {
            continue;
        }
        let (a, b) = (fs::read(first).unwrap(), fs::read(second).unwrap());
        fs::write(first, &b).unwrap();
        fs::write(second, &a).unwrap();
        vault = read_everything(vault, &plain, &format!("swap {round}"));
        fs::write(first, &a).unwrap();
        fs::write(second, &b).unwrap();
    }
    // The first half of one file with the second half of another.
    let big: Vec<&PathBuf> =
        files.iter().filter(|file| fs::metadata(file).unwrap().len() > 40_000).collect();
    let (one, other) = (fs::read(big[0]).unwrap(), fs::read(big[1]).unwrap());
    let middle = 64 + 4112 * 5;
    let mixed: Vec<u8> = one[..middle].iter().chain(&other[middle..]).copied().collect();
    fs::write(big[1], mixed).unwrap();
    vault = read_everything(vault, &plain, "a mix of two files");
    fs::write(big[1], other).unwrap();
    // What is no file of ours, in a file's place.
    let aside = vault.place().join("aside");
    for kind in ["symlink", "fifo", "directory"] {
        fs::rename(&files[0], &aside).unwrap();
        match kind {
            "symlink" => std::os::unix::fs::symlink(&aside, &files[0]).unwrap(),
            "fifo" => drop(succeed(Command::new("mkfifo").arg(&files[0]))),
            _ => fs::create_dir(&files[0]).unwrap(),
        }
        vault = read_everything(vault, &plain, kind);
        if kind == "directory" {
            fs::remove_dir(&files[0]).unwrap();
        } else {
            fs::remove_file(&files[0]).unwrap();
        }
        fs::rename(&aside, &files[0]).unwrap();
    }
}

#[test]
fn a_vault_file_cut_under_a_live_mapping_is_an_error_and_no_crash() {
    let Some(mount) = Mount::new() else { return };
    let content = Random(5).bytes(16 << 20);
    fs::write(mount.path("file"), &content).unwrap();
    let mut mount = mount.remount();
    let file = File::open(mount.path("file")).unwrap();
    let mut piece = vec![0; 4096];
    file.read_exact_at(&mut piece, 0).unwrap();
    let largest = mount.vault.files().into_iter().max_by_key(|f| fs::metadata(f).unwrap().len());
    File::options().write(true).open(largest.unwrap()).unwrap().set_len(100_000).unwrap();
    let mut errors = 0;
    for at in (0..content.len()).step_by(1 << 20).map(|at| at + 500_000) {
        let at = at.min(content.len() - 4096);
        match file.read_exact_at(&mut piece, at as u64) {
            Ok(()) => assert!(piece == content[at..at + 4096], "wrong bytes at {at}"),
            Err(_) => errors += 1,
        }
    }
    assert!(errors > 5, "what was cut off was read");
    assert!(mount.is_alive(), "the daemon died: {}", mount.log());
    drop(file);
    mount.end_by("TERM");
}

#[test]
fn a_stale_version_mixed_into_a_file_is_an_error() {
    let Some(mount) = Mount::new() else { return };
    let old = Random(6).bytes(60_000);
    let new = Random(7).bytes(60_000);
    fs::write(mount.path("file"), &old).unwrap();
    let vault = mount.unmount();
    let name = |vault: &Vault| {
        let control = vault.dir().join(".akasha");
        vault.files().into_iter().find(|file| !file.starts_with(&control)).unwrap()
    };
    let before = fs::read(name(&vault)).unwrap();
    let mount = vault.mount();
    fs::write(mount.path("file"), &new).unwrap();
    let mut vault = mount.unmount();
    let file = name(&vault);
    let after = fs::read(&file).unwrap();
    assert_eq!(before.len(), after.len());
    let plain = Plain::from([(PathBuf::from("file"), new)]);
    for slot in 0..14 {
        let (from, to) = (64 + slot * 4112, 64 + (slot + 1) * 4112);
        let mut mixed = after.clone();
        mixed[from..to].copy_from_slice(&before[from..to]);
        fs::write(&file, mixed).unwrap();
        vault = read_everything(vault, &plain, &format!("slot {slot} of the old version"));
    }
}
