//! `akasha info`: what a vault is made of, and whether that is proved.

use std::fmt::Write;

use crate::crypto::Cipher;
use crate::format::config::SlotInfo;
use crate::format::{Geometry, VaultId};

use super::args::InfoArgs;
use super::error::Result;
use super::open::{Found, harden};
use super::password::{PasswordReader, PasswordSource, Purpose};
use super::{print_text, size};

/// Runs the command.
///
/// # Errors
/// What finding a vault, reading a password and opening with it give.
pub fn run(args: InfoArgs) -> Result<()> {
    let found = Found::at(&args.vault)?;
    let source = PasswordSource::from(args.password);
    let is_asked_to_prove = args.verify || source != PasswordSource::Ask;
    let report = if is_asked_to_prove {
        found.check_cost(args.cost.allow_costly_kdf)?;
        harden();
        let password = PasswordReader::new().read(&source, Purpose::Open)?;
        let config = found.unlock(&password)?.config;
        Report {
            format: found.claims.format,
            vault_id: config.vault_id,
            created: config.created,
            serial: config.serial,
            cipher: config.cipher,
            geometry: config.geometry,
            slots: config.slots,
            opened_slot: Some(config.opened_slot),
        }
    } else {
        let claims = found.claims;
        Report {
            format: claims.format,
            vault_id: claims.vault_id,
            created: claims.created,
            serial: claims.serial,
            cipher: claims.cipher,
            geometry: claims.geometry,
            slots: claims.slots,
            opened_slot: None,
        }
    };
    print_text(&report.text())
}

struct Report {
    format: u32,
    vault_id: VaultId,
    created: u64,
    serial: u64,
    cipher: Cipher,
    geometry: Geometry,
    slots: Vec<SlotInfo>,
    /// The slot whose password proved everything.
    opened_slot: Option<u32>,
}

impl Report {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "{name:<12}{value}");
        };
        row("vault id", self.vault_id.to_string());
        row("format", self.format.to_string());
        row("created", utc(self.created));
        row("serial", format!("{} (writes of vault.toml)", self.serial));
        row("cipher", self.cipher.to_string());
        row("block size", size::show(self.geometry.block_len()));
        for slot in &self.slots {
            row(&format!("key slot {}", slot.id), describe(slot));
        }
        if let Some(slot) = self.opened_slot {
            row("status", format!("verified with the password of key slot {slot}"));
        } else {
            row("status", "not verified: whoever can write the vault can claim this".to_owned());
            row("", "(akasha info --verify proves it with the password)".to_owned());
        }
        text
    }
}

fn describe(slot: &SlotInfo) -> String {
    let count = |number: u32, one: &str, many: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    };
    // Kind and label may be anybody's text.
    let shown = |text: &str| text.escape_debug().to_string();
    let label =
        if slot.label.is_empty() { String::new() } else { format!(" \"{}\"", shown(&slot.label)) };
    format!(
        "{}{label}: argon2id, {}, {}, {}",
        shown(&slot.kind),
        size::show(u64::from(slot.kdf.memory_kib) << 10),
        count(slot.kdf.passes, "pass", "passes"),
        count(slot.kdf.lanes, "lane", "lanes"),
    )
}

/// Seconds since 1970 as date and time, UTC (RFC 3339). Days to civil date after Howard Hinnant, "chrono-Compatible
/// Low-Level Date Algorithms".
fn utc(seconds: u64) -> String {
    const DAY: u64 = 86_400;
    // 9999-12-31: more is no time that anybody made a vault.
    if seconds >= 253_402_300_800 {
        return format!("{seconds} seconds after 1970");
    }
    let (days, second) = (seconds / DAY, seconds % DAY);
    // Counted from 0000-03-01, in eras of 400 years.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (1_078_012_799, "2004-02-28 23:59:59 UTC"),
            (1_798_761_600, "2027-01-01 00:00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
            (253_402_300_799, "9999-12-31 23:59:59 UTC"),
        ] {
            assert_eq!(utc(seconds), text);
        }
        assert_eq!(utc(u64::MAX), format!("{} seconds after 1970", u64::MAX));
    }
}
