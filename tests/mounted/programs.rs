//! Ordinary programs on the mount, each checked again after unmount and remount.

use super::harness::{Mount, Setup, big, python, run, setting, skipped, succeed};

/// Runs `program do`, and `check` after it, after a remount, and after another one.
fn program(mount: Mount, program: &str, work: &[&str], check: &[&str]) {
    mount.python(program, work);
    mount.python(program, check);
    let mount = mount.remount();
    mount.python(program, check);
    let mount = mount.remount();
    mount.python(program, check);
    mount.unmount();
}

#[test]
fn a_json_document_saved_by_temp_fsync_and_replace_is_always_whole() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "json_save.py", &["sync"], &["check"]);
}

#[test]
fn a_json_document_saved_by_replace_without_fsync_is_always_whole() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "json_save.py", &["plain"], &["check"]);
}

#[test]
fn a_writer_that_fails_half_way_leaves_the_old_file_and_no_ghost() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "failing_writer.py", &["do"], &["check"]);
}

#[test]
fn a_large_log_is_read_line_by_line_in_flat_memory() {
    let Some(mount) = Mount::new() else { return };
    let size = if big() { 4 << 30 } else { 512 << 20 };
    let size = setting("AKASHA_LOG_BYTES", size).to_string();
    mount.python("log_lines.py", &["write", &size]);
    mount.python("log_lines.py", &["read", &size]);
    let (written_kib, _) = mount.memory_kib();
    let mount = mount.remount();
    mount.python("log_lines.py", &["read", &size]);
    let (peak_kib, anonymous_kib) = mount.memory_kib();
    eprintln!(
        "log of {size} bytes: peak {written_kib} KiB written and read, {peak_kib} KiB read again \
         (of it {anonymous_kib} KiB anonymous now)"
    );
    assert!(written_kib.max(peak_kib) < 200 << 10, "the daemon took more than 200 MiB");
    mount.unmount();
}

#[test]
fn a_mapped_file_is_searched_and_changed_in_place() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "mapped.py", &["do"], &["check"]);
}

#[test]
fn processes_appending_to_one_log_lose_no_line() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "append_two.py", &["do"], &["check"]);
}

#[test]
fn sqlite_with_a_rollback_journal_is_updated_row_by_row() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "sqlite_rows.py", &["do", "DELETE", "200"], &["check", "DELETE", "200"]);
}

#[test]
fn sqlite_with_a_write_ahead_log_is_updated_row_by_row() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "sqlite_rows.py", &["do", "WAL", "200"], &["check", "WAL", "200"]);
}

#[test]
fn thousands_of_files_fit_under_256_descriptors() {
    let setup = Setup { max_descriptors: Some(256), ..Setup::default() };
    let Some(mount) = Mount::with(setup) else { return };
    program(mount, "many_files.py", &["do"], &["check"]);
}

#[test]
fn a_slow_big_write_does_not_hold_up_small_reads_elsewhere() {
    let Some(mount) = Mount::new() else { return };
    let size = (512_u64 << 20).to_string();
    mount.python("slow_write.py", &["prepare"]);
    let mount = mount.remount();
    eprint!("{}", mount.python("slow_write.py", &["do", &size]));
    let mount = mount.remount();
    mount.python("slow_write.py", &["check", &size]);
    mount.unmount();
}

#[test]
fn names_of_1_to_255_bytes_of_any_kind_work_everywhere() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "names.py", &["do"], &["check"]);
}

#[test]
fn rename_replaces_exchanges_and_refuses() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "rename.py", &["do"], &["check"]);
}

#[test]
fn an_unlinked_file_lives_as_long_as_it_is_open() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "unlinked.py", &["do"], &["check"]);
}

#[test]
fn a_directory_of_20000_entries_is_listed_and_deleted_from_at_once() {
    let Some(mount) = Mount::new() else { return };
    mount.python("big_directory.py", &["create", "20000"]);
    let mount = mount.remount();
    mount.python("big_directory.py", &["check", "20000"]);
    mount.python("big_directory.py", &["delete", "20000"]);
    let mount = mount.remount();
    mount.python("big_directory.py", &["check_deleted", "20000"]);
    let vault = mount.unmount();
    let left = vault.files();
    assert!(
        left.iter().all(|file| file.starts_with(vault.dir().join(".akasha"))),
        "after everything was deleted: {left:?}"
    );
}

#[test]
fn sparse_files_of_terabytes_hold_next_to_nothing() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "sparse.py", &["do"], &["check"]);
}

#[test]
fn times_modes_owners_links_and_errors_are_those_of_a_local_filesystem() {
    let Some(mount) = Mount::new() else { return };
    program(mount, "metadata.py", &["do"], &["check"]);
}

#[test]
fn an_independent_reader_exports_what_the_mount_holds() {
    let Some(mount) = Mount::new() else { return };
    mount.python("names.py", &["do"]);
    std::fs::create_dir(mount.path("more")).unwrap();
    for program in ["rename.py", "sparse_small.py", "mapped.py"] {
        let dir = mount.path("more").join(program);
        std::fs::create_dir(&dir).unwrap();
        succeed(&mut python(program, &dir, &["do"]));
    }
    // The reader exports no devices, and says so.
    for whiteout in ["white", "white dir", "late"] {
        std::fs::remove_file(mount.path("more/rename.py").join(whiteout)).unwrap();
    }
    let reader = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/akasha_reader.py");
    let export = mount.vault.place().join("export");
    let mount = mount.remount();
    let plain = mount.vault.place().join("plain");
    succeed(std::process::Command::new("cp").arg("-a").arg(mount.vault.mountpoint()).arg(&plain));
    let vault = mount.unmount();
    if !run(super::harness::python_command().args(["-c", "import argon2, cryptography"]))
        .status
        .success()
    {
        skipped("Python has no argon2 or no cryptography; scripts/setup reader gets them");
        return;
    }
    let mut command = super::harness::python_command();
    command.arg(reader).arg("export").arg(vault.dir()).arg(&export);
    command.arg("--password-file").arg(vault.password_file());
    succeed(&mut command);
    let mut diff = std::process::Command::new("diff");
    succeed(diff.args(["-r", "--no-dereference"]).arg(&plain).arg(&export));
}
