//! Vault files that change while they are mounted and read, and names that are carried to another directory: right bytes or
//! EIO through the kernel, and a line in the log that names the object.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::harness::{Daemon, Mount, Random, Vault, setting, succeed};

fn in_tree(vault: &Vault) -> Vec<PathBuf> {
    let control = vault.dir().join(".akasha");
    vault.files().into_iter().filter(|file| !file.starts_with(&control)).collect()
}

/// How many bytes there are; `None` is EIO.
fn read_or_eio(file: &File, at: u64, piece: &mut [u8]) -> Option<usize> {
    match file.read_at(piece, at) {
        Ok(len) => Some(len),
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "anything but EIO: {error}");
            None
        }
    }
}

#[test]
fn vault_files_rewritten_cut_and_grown_while_they_are_read_are_eio_or_right() {
    let Some(mount) = Mount::new() else { return };
    let content = Random(8).bytes(8 << 20);
    fs::write(mount.path("file"), &content).unwrap();
    let mut mount = mount.remount();
    let top = in_tree(&mount.vault).pop().unwrap();
    let honest = fs::read(&top).unwrap();
    let backing = File::options().read(true).write(true).open(&top).unwrap();
    let seconds = setting("AKASHA_TAMPER_SECONDS", 2);
    let stop = AtomicBool::new(false);
    let (right, refused) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut random = Random::new();
    thread::scope(|scope| {
        for reader in 0..3 {
            // Past the page cache, so that every read asks the daemon.
            let mut options = File::options();
            let file = options.read(true).custom_flags(libc::O_DIRECT).open(mount.path("file"));
            let file = file.unwrap();
            let (stop, content, right, refused) = (&stop, &content, &right, &refused);
            scope.spawn(move || {
                let mut random = Random(reader);
                let mut piece = vec![0; 20_000];
                while !stop.load(Ordering::Relaxed) {
                    let at = random.below(content.len() as u64 - 1) as usize;
                    match read_or_eio(&file, at as u64, &mut piece) {
                        Some(len) => {
                            assert!(len > 0, "the end came early, at {at}");
                            assert!(piece[..len] == content[at..at + len], "wrong bytes at {at}");
                            right.fetch_add(1, Ordering::Relaxed);
                        }
                        None => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        let start = Instant::now();
        let late = || start.elapsed() > Duration::from_mins(2);
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        while start.elapsed() < Duration::from_secs(seconds)
            || ((count(&right) < 100 || count(&refused) < 100) && !late())
        {
            let at = random.below(honest.len() as u64 - 70_000);
            if random.below(2) == 0 {
                let len = 1 + random.below(60_000) as usize;
                backing.write_all_at(&random.bytes(len), at).unwrap();
                thread::sleep(Duration::from_millis(1));
                backing.write_all_at(&honest[at as usize..at as usize + len], at).unwrap();
            } else {
                backing.set_len(honest.len() as u64 + at).unwrap();
                thread::sleep(Duration::from_millis(1));
                backing.set_len(honest.len() as u64).unwrap();
            }
        }
        // A cut poisons what is mapped: from then on there may be nothing but EIO.
        let before = count(&refused);
        while count(&refused) < before + 50 && !late() {
            let at = random.below(honest.len() as u64 - 70_000);
            backing.set_len(at).unwrap();
            thread::sleep(Duration::from_millis(1));
            backing.write_all_at(&honest[at as usize..], at).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    let (right, refused) = (right.into_inner(), refused.into_inner());
    println!("while it was rewritten: {right} reads right, {refused} EIO, wrong 0");
    assert!(right > 0 && refused > 0);
    assert!(mount.is_alive(), "the daemon died: {}", mount.log());
    // Put back: all there.
    let mount = mount.end_by("TERM").mount();
    assert!(fs::read(mount.path("file")).unwrap() == content);
    mount.unmount();
}

#[test]
fn damage_is_named_in_the_log_by_its_object() {
    let Some(mount) = Mount::new() else { return };
    fs::write(mount.path("content"), Random(9).bytes(50_000)).unwrap();
    let vault = mount.unmount();
    let top = in_tree(&vault).pop().unwrap();
    let mut bytes = fs::read(&top).unwrap();
    bytes[64 + 4112 * 3] ^= 1;
    fs::write(&top, &bytes).unwrap();
    let mount = vault.mount();
    let ino = fs::metadata(mount.path("content")).unwrap().ino();
    assert!(fs::read(mount.path("content")).is_err());
    let line = format!("inode {ino:016x}");
    let log = mount.log();
    let named = log.lines().find(|said| said.contains(&line));
    assert!(named.is_some_and(|said| said.contains("authenticate")), "no {line} in: {log}");
    assert!(!log.contains("content of"), "a plaintext name in the log: {log}");
    let vault = mount.unmount();
    // A refused mount says what is wrong.
    let config = vault.dir().join(".akasha/vault.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("placement = \"loose\"", "placement = \"lose\"")).unwrap();
    let said = Daemon::start(&vault).err().expect("refused");
    assert!(said.contains("placement"), "{said}");
}

/// Somebody who may read one directory of the mount, and write the vault, carries secrets into it.
#[test]
fn a_name_opens_only_in_its_directory() {
    let Some(mount) = Mount::new() else { return };
    for dir in ["secret", "secret/inner", "public"] {
        fs::create_dir(mount.path(dir)).unwrap();
    }
    let secret = b"the secret itself".repeat(400);
    fs::write(mount.path("secret/file"), &secret).unwrap();
    fs::write(mount.path("secret").join("l".repeat(200)), &secret).unwrap();
    fs::write(mount.path("secret/inner/file"), &secret).unwrap();
    fs::write(mount.path("secret/linked"), &secret).unwrap();
    fs::hard_link(mount.path("secret/linked"), mount.path("secret/other name")).unwrap();
    std::os::unix::fs::symlink("the secret itself", mount.path("secret/symlink")).unwrap();
    fs::write(mount.path("public/mine"), b"mine").unwrap();
    let vault = mount.unmount();
    // The backing directories are told apart by how much is in them; rescue copies come with time.
    for dir in fs::read_dir(vault.dir()).unwrap() {
        let _ = fs::remove_file(dir.unwrap().path().join(".dir"));
    }
    let mut dirs: Vec<(usize, PathBuf)> = fs::read_dir(vault.dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir() && !path.ends_with(".akasha"))
        .map(|path| (fs::read_dir(&path).unwrap().count(), path))
        .collect();
    dirs.sort();
    let [(1, public), (_, hidden)] = &dirs[..] else { panic!("{dirs:?}") };
    let mut carried = 0;
    for entry in fs::read_dir(hidden).unwrap() {
        let from = entry.unwrap().path();
        let to = public.join(from.file_name().unwrap());
        succeed(Command::new("cp").arg("-a").arg(&from).arg(&to));
        carried += 1;
    }
    // And the other way round: a name of his own over a secret's content.
    let mine = fs::read_dir(public).unwrap().map(|entry| entry.unwrap().path());
    let mine = mine.filter(|path| !hidden.join(path.file_name().unwrap()).exists()).last().unwrap();
    let theirs = fs::read_dir(hidden).unwrap().map(|entry| entry.unwrap().path());
    let theirs =
        theirs.max_by_key(|path| if path.is_file() { path.metadata().unwrap().len() } else { 0 });
    fs::copy(theirs.unwrap(), &mine).unwrap();
    let mount = vault.mount();
    let mut stand_ins = 0;
    for entry in fs::read_dir(mount.path("public")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        assert!(name == "mine" || name.starts_with("akasha-damaged-"), "{name} opens");
        let read = fs::read(entry.path());
        assert!(read.is_err(), "{name}: {read:?}");
        assert!(fs::read_link(entry.path()).is_err() && fs::read_dir(entry.path()).is_err());
        stand_ins += 1;
    }
    // A sidecar is shown with what it belongs to.
    assert_eq!(stand_ins, carried, "mine, and one for each but the sidecar");
    assert_eq!(fs::read(mount.path("secret/file")).unwrap(), secret);
    mount.unmount();
}
