//! Right bytes after every step, in every form and for every cipher; what changes and streams cost.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::{Mount, Random, Setup, big, python, setting, succeed};

/// Sizes around the edges of blocks and requests, and one that is changed in place.
const SIZES: [usize; 12] = [
    0,
    1,
    4095,
    4096,
    4097,
    (128 << 10) - 1,
    128 << 10,
    (128 << 10) + 1,
    1 << 20,
    (1 << 20) + 5,
    (3 << 20) - 4096,
    8 << 20,
];

/// Every file of the test with what it must hold.
struct Expected(BTreeMap<String, Vec<u8>>);

impl Expected {
    fn check(&self, mount: &Mount, after: &str) {
        for (name, content) in &self.0 {
            let found = fs::read(mount.path(name)).unwrap_or_else(|why| panic!("{name}: {why}"));
            same(&found, content, &format!("{name} after {after}"));
        }
    }

    /// Applies one step to every file, on the mount and here, and compares now and after a remount.
    fn step(
        &mut self,
        mount: Mount,
        what: &str,
        mut change: impl FnMut(&Path, &mut Vec<u8>),
    ) -> Mount {
        for (name, content) in &mut self.0 {
            change(&mount.path(name), content);
        }
        self.check(&mount, what);
        let mount = mount.remount();
        self.check(&mount, &format!("{what} and remount"));
        mount
    }
}

fn same(found: &[u8], expected: &[u8], what: &str) {
    if found != expected {
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let (len, wanted) = (found.len(), expected.len());
        panic!("{what}: {len} bytes, expected {wanted}; first difference at {at:?}");
    }
}

fn overwrite(path: &Path, content: &mut Vec<u8>, at: usize, data: &[u8]) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(data, at as u64).unwrap();
    if content.len() < at + data.len() {
        content.resize(at + data.len(), 0);
    }
    content[at..at + data.len()].copy_from_slice(data);
}

fn resize(path: &Path, content: &mut Vec<u8>, len: usize) {
    File::options().write(true).open(path).unwrap().set_len(len as u64).unwrap();
    content.resize(len, 0);
}

fn every_step(setup: Setup) {
    let Some(mut mount) = Mount::with(setup) else { return };
    let mut random = Random::new();
    let mut files = Expected(BTreeMap::new());
    for size in SIZES {
        files.0.insert(format!("{size} bytes"), Vec::new());
    }
    let sizes = SIZES.iter().map(|size| (format!("{size} bytes"), *size));
    let sizes: BTreeMap<String, usize> = sizes.collect();
    let size_of = |path: &Path| sizes[path.file_name().unwrap().to_str().unwrap()];
    let write = |path: &Path, content: &mut Vec<u8>, data: Vec<u8>| {
        fs::write(path, &data).unwrap();
        *content = data;
    };
    mount = files.step(mount, "creating", |path, content| {
        write(path, content, random.bytes(size_of(path)));
    });
    mount = files.step(mount, "rewriting", |path, content| {
        write(path, content, random.bytes(size_of(path)));
    });
    mount = files.step(mount, "appending", |path, content| {
        let data = random.bytes(5000);
        File::options().append(true).open(path).unwrap().write_all(&data).unwrap();
        content.extend(data);
    });
    mount = files.step(mount, "changing the middle", |path, content| {
        let at = content.len() / 2;
        overwrite(path, content, at, &random.bytes(700));
    });
    mount = files.step(mount, "changing the middle again, across blocks", |path, content| {
        let at = content.len() / 3;
        overwrite(path, content, at, &random.bytes(9000));
        overwrite(path, content, 0, b"first");
    });
    mount = files.step(mount, "cutting", |path, content| {
        let len = content.len() * 2 / 3;
        resize(path, content, len);
    });
    mount = files.step(mount, "growing", |path, content| {
        let len = content.len() + 10_001;
        resize(path, content, len);
    });
    mount = files.step(mount, "writing far behind the end", |path, content| {
        let at = content.len() + 300_000;
        overwrite(path, content, at, &random.bytes(5000));
    });
    mount = files.step(mount, "cutting into the hole", |path, content| {
        let len = content.len() - 100_000;
        resize(path, content, len);
    });
    mount = files.step(mount, "rewriting shorter", |path, content| {
        write(path, content, random.bytes(size_of(path) / 2));
    });
    mount = files.step(mount, "emptying", |path, content| resize(path, content, 0));
    mount.unmount();
}

#[test]
fn every_step_gives_the_right_bytes_with_chacha20_poly1305() {
    every_step(Setup::default());
}

#[test]
fn every_step_gives_the_right_bytes_with_aes_256_gcm() {
    every_step(Setup { cipher: "aes-256-gcm", ..Setup::default() });
}

#[test]
fn every_step_gives_the_right_bytes_with_aes_256_gcm_siv() {
    every_step(Setup { cipher: "aes-256-gcm-siv", ..Setup::default() });
}

#[test]
fn every_step_gives_the_right_bytes_with_blocks_of_64_kib() {
    every_step(Setup { block_size: "64KiB", ..Setup::default() });
}

#[test]
fn every_step_gives_the_right_bytes_with_blocks_of_1_mib() {
    every_step(Setup { block_size: "1MiB", cipher: "aes-256-gcm", ..Setup::default() });
}

/// Rounds of random operations with a remount between them; `AKASHA_FSX_ROUNDS`, `AKASHA_FSX_OPS`.
fn random_operations(setup: Setup) {
    let Some(mut mount) = Mount::with(setup) else { return };
    let model = mount.vault.place().join("model");
    fs::create_dir(&model).unwrap();
    let mut random = Random::new();
    let rounds = setting("AKASHA_FSX_ROUNDS", if big() { 200 } else { 8 });
    let count = setting("AKASHA_FSX_OPS", 400).to_string();
    for _ in 0..rounds {
        let seed = random.next().to_string();
        mount.python("fsx.py", &["run", &seed, &count, model.to_str().expect("UTF-8")]);
        mount = mount.remount();
    }
    mount.unmount();
}

#[test]
fn random_operations_with_chacha20_poly1305_match_a_plain_file() {
    random_operations(Setup::default());
}

#[test]
fn random_operations_with_aes_256_gcm_and_quick_commits_match_a_plain_file() {
    let mount_args = vec!["--commit".into(), "0.05".into()];
    random_operations(Setup { cipher: "aes-256-gcm", mount_args, ..Setup::default() });
}

#[test]
fn random_operations_with_aes_256_gcm_siv_and_commit_on_close_match_a_plain_file() {
    let mount_args = vec!["--commit".into(), "close".into()];
    let setup = Setup { cipher: "aes-256-gcm-siv", block_size: "16KiB", ..Setup::default() };
    random_operations(Setup { mount_args, ..setup });
}

/// A block of a stream that is nowhere the same.
fn stream_block(block: &mut [u8], number: u64) {
    block[..8].copy_from_slice(&number.to_le_bytes());
    block[4096..4104].copy_from_slice(&(!number).to_le_bytes());
}

#[test]
fn streaming_in_and_out_stays_under_200_mib_of_memory() {
    let Some(mount) = Mount::new() else { return };
    let size = setting("AKASHA_STREAM_GIB", if big() { 20 } else { 1 }) << 30;
    let mut block = Random(1).bytes(1 << 20);
    let mut file = File::create(mount.path("stream")).unwrap();
    for number in 0..size >> 20 {
        stream_block(&mut block, number);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let (peak_in, _) = mount.memory_kib();
    let mount = mount.remount();
    let mut file = File::open(mount.path("stream")).unwrap();
    let mut found = vec![0; 1 << 20];
    for number in 0..size >> 20 {
        stream_block(&mut block, number);
        file.read_exact(&mut found).unwrap();
        assert!(found == block, "MiB {number} differs");
    }
    assert_eq!(file.read(&mut found).unwrap(), 0);
    drop(file);
    let (peak_out, anonymous) = mount.memory_kib();
    eprintln!(
        "{} GiB: peak {peak_in} KiB in, {peak_out} KiB out ({anonymous} KiB anonymous)",
        size >> 30
    );
    assert!(peak_in.max(peak_out) < 200 << 10, "the daemon took more than 200 MiB");
    mount.unmount();
}

#[test]
fn a_small_change_with_fsync_in_a_big_file_writes_little_to_the_vault() {
    let Some(mount) = Mount::new() else { return };
    let size = if big() { 1_u64 << 30 } else { 256 << 20 };
    let mut block = Random(2).bytes(1 << 20);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(mount.path("big"))
        .unwrap();
    for number in 0..size >> 20 {
        stream_block(&mut block, number);
        file.write_all(&block).unwrap();
    }
    file.sync_all().unwrap();
    drop(file);
    let mount = mount.remount();
    let mut file = File::options().read(true).write(true).open(mount.path("big")).unwrap();
    let mut random = Random::new();
    let mut worst = 0;
    let rounds: u64 = 40;
    let (start, _) = mount.written();
    for _ in 0..rounds {
        let at = random.below(size / 4096) * 4096;
        let data = random.bytes(4096);
        let before = mount.written();
        file.write_all_at(&data, at).unwrap();
        file.sync_all().unwrap();
        let after = mount.written();
        worst = worst.max(after.0 - before.0).max(after.1 - before.1);
        file.seek(SeekFrom::Start(at)).unwrap();
        let mut found = vec![0; 4096];
        file.read_exact(&mut found).unwrap();
        assert_eq!(found, data);
    }
    let average = (mount.written().0 - start) / rounds;
    eprintln!("4 KiB in {} MiB: {average} bytes written on average, {worst} at worst", size >> 20);
    assert!(worst < 1 << 20, "one change of 4 KiB wrote {worst} bytes");
    drop(file);
    mount.unmount();
}

/// Crates of cargo's registry until there are 5,000 files: they are there, they were just built.
fn real_tree() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cargo"),
        PathBuf::from,
    );
    let mut crates = Vec::new();
    for index in fs::read_dir(home.join("registry/src")).expect("cargo keeps its sources") {
        let index = index.unwrap().path();
        crates.extend(fs::read_dir(index).unwrap().map(|entry| entry.unwrap().path()));
    }
    // The largest first would be few; by name gives a mix of large and small.
    crates.sort();
    let (mut taken, mut files) = (Vec::new(), 0);
    while let Some(next) = crates.pop() {
        files += succeed(Command::new("find").arg(&next).args(["-type", "f"])).lines().count();
        taken.push(next);
        if files >= 5500 {
            break;
        }
    }
    if files < 5000 {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        panic!("only {files} files of sources; run cargo fetch in {}", here.display());
    }
    taken
}

#[test]
fn a_tree_of_5000_files_is_the_same_after_remount() {
    let Some(mount) = Mount::new() else { return };
    let crates = real_tree();
    let compare = |mount: &Mount| {
        for path in &crates {
            let copy = mount.path(path.file_name().unwrap());
            succeed(Command::new("diff").args(["-r", "--no-dereference"]).arg(path).arg(copy));
        }
    };
    succeed(Command::new("cp").arg("-a").args(&crates).arg(mount.vault.mountpoint()));
    compare(&mount);
    let mount = mount.remount();
    compare(&mount);
    // And goes as it came: nothing but the skeleton is left.
    let names: Vec<PathBuf> =
        crates.iter().map(|path| mount.path(path.file_name().unwrap())).collect();
    succeed(Command::new("rm").arg("-rf").args(&names));
    assert_eq!(fs::read_dir(mount.vault.mountpoint()).unwrap().count(), 0);
    let vault = mount.unmount();
    let left = vault.files();
    let control = vault.dir().join(".akasha");
    assert!(left.iter().all(|file| file.starts_with(&control)), "left: {left:?}");
    for place in ["layers", "inodes"] {
        let place = control.join(place);
        let left: Vec<&PathBuf> = left.iter().filter(|file| file.starts_with(&place)).collect();
        assert!(left.is_empty(), "left: {left:?}");
    }
}

#[test]
fn many_processes_in_one_mount_do_not_disturb_each_other() {
    let Some(mount) = Mount::new() else { return };
    let work: &[(&str, &[&str])] = &[
        ("json_save.py", &["plain"]),
        ("rename.py", &["do"]),
        ("append_two.py", &["do"]),
        ("mapped.py", &["do"]),
        ("failing_writer.py", &["do"]),
        ("sqlite_rows.py", &["do", "WAL", "60"]),
    ];
    std::thread::scope(|scope| {
        for (program, args) in work {
            let dir = mount.path(program);
            scope.spawn(move || {
                fs::create_dir(&dir).unwrap();
                succeed(&mut python(program, &dir, args));
            });
        }
    });
    let mount = mount.remount();
    for (program, args) in work {
        let check: Vec<&str> = std::iter::once("check").chain(args[1..].iter().copied()).collect();
        succeed(&mut python(program, &mount.path(program), &check));
    }
    mount.unmount();
}
