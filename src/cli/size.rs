//! Sizes as people write them: `4096`, `64KiB`, `256 MiB`, `1G`.

/// Bytes that `text` names. Binary units only: `K`, `KiB`, `M`, `MiB`, `G`, `GiB`, any case; no unit is bytes.
///
/// # Errors
/// A sentence saying what is wrong with it.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number
        .parse()
        .map_err(|_| "a size is a whole number and a unit, such as 64KiB or 256MiB".to_owned())?;
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "kb" | "mb" | "gb" => {
            return Err(format!("unit {unit:?} is ambiguous: write KiB, MiB or GiB"));
        }
        _ => return Err(format!("unknown unit {unit:?}: write KiB, MiB or GiB")),
    };
    number.checked_mul(1 << shift).ok_or_else(|| "the size is too large".to_owned())
}

/// `bytes` in the largest unit that divides it.
pub fn show(bytes: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes != 0 && bytes.is_multiple_of(1 << shift) {
            return format!("{} {unit}", bytes >> shift);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn binary_units_are_understood_in_any_case() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4KiB", 4096),
            ("4k", 4096),
            ("19MiB", 19 << 20),
            ("256 mib", 256 << 20),
            ("4G", 4 << 30),
        ] {
            assert_eq!(parse(text).unwrap(), bytes, "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "1MB",
            "1TiB",
            "99999999999999999999",
            "18446744073709551615K",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_exact_unit() {
        assert_eq!(show(4096), "4 KiB");
        assert_eq!(show(256 << 20), "256 MiB");
        assert_eq!(show(5000), "5000 bytes");
        assert_eq!(show(0), "0 bytes");
    }
}
