//! Bytes that must not leave this process: wiped on drop, never printed, never copied by accident, kept
//! out of swap and core dumps as far as the system allows.

use zeroize::Zeroize;

/// `N` secret bytes in their own heap allocation.
///
/// They are neither printed nor copied by accident:
///
/// ```compile_fail
/// fn copy(secret: &akasha::secret::Secret<32>) -> akasha::secret::Secret<32> {
///     secret.clone()
/// }
/// ```
///
/// ```compile_fail
/// fn print(secret: &akasha::secret::Secret<32>) {
///     println!("{secret:?}");
/// }
/// ```
pub struct Secret<const N: usize> {
    bytes: Box<[u8; N]>,
}

impl<const N: usize> Secret<N> {
    /// Zeros, to be filled in place.
    pub fn zeroed() -> Self {
        let secret = Secret { bytes: Box::new([0; N]) };
        protect(&secret.bytes[..]);
        secret
    }

    /// Filled by `fill`, in place.
    pub fn filled(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut secret = Self::zeroed();
        fill(&mut secret.bytes);
        secret
    }

    /// The bytes, for the call that needs them.
    pub fn expose(&self) -> &[u8; N] {
        &self.bytes
    }

    /// The bytes, to be filled.
    pub fn expose_mut(&mut self) -> &mut [u8; N] {
        &mut self.bytes
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// A password: any bytes, at most [`Password::LEN_MAX`], wiped on drop.
pub struct Password {
    bytes: Box<[u8]>,
    len: usize,
}

impl Password {
    /// The longest password, in bytes.
    pub const LEN_MAX: usize = 4096;

    /// Copies `bytes`; the caller wipes the original. `None` if it is too long.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > Self::LEN_MAX {
            return None;
        }
        // The full length always, so that a password never grows through reallocated memory.
        let mut held = vec![0; Self::LEN_MAX].into_boxed_slice();
        protect(&held);
        held[..bytes.len()].copy_from_slice(bytes);
        Some(Password { bytes: held, len: bytes.len() })
    }

    /// The bytes, for the call that needs them.
    pub fn expose(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Drop for Password {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// Keeps the pages of `bytes` out of swap and core dumps. Best effort: RLIMIT_MEMLOCK may be
/// small, and the process keeps itself undumpable anyway.
#[allow(unsafe_code)]
fn protect(bytes: &[u8]) {
    const PAGE: usize = 4096;
    let start = bytes.as_ptr() as usize / PAGE * PAGE;
    let end = (bytes.as_ptr() as usize + bytes.len()).div_ceil(PAGE) * PAGE;
    // SAFETY: mlock and madvise(MADV_DONTDUMP) change no memory and are defined for any mapped range;
    // the range is the pages of a live allocation. Neighbours on the same pages are locked along, and stay so
    // after the secret is freed: that costs a page of lockable memory and nothing else.
    unsafe {
        libc::mlock(start as *const libc::c_void, end - start);
        libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTDUMP);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_holds_what_it_was_filled_with() {
        let mut secret = Secret::<3>::filled(|bytes| bytes.copy_from_slice(b"abc"));
        assert_eq!(secret.expose(), b"abc");
        secret.expose_mut()[0] = b'x';
        assert_eq!(secret.expose(), b"xbc");
        assert_eq!(Secret::<5>::zeroed().expose(), &[0; 5]);
    }

    #[test]
    fn a_password_has_its_own_length_and_a_limit() {
        assert_eq!(Password::new(b"pw").unwrap().expose(), b"pw");
        assert!(Password::new(b"").unwrap().is_empty());
        assert!(Password::new(&[b'x'; Password::LEN_MAX]).is_some());
        assert!(Password::new(&[b'x'; Password::LEN_MAX + 1]).is_none());
    }

    /// smaps(5): locked memory, and `dd` for what core dumps leave out.
    #[test]
    fn the_pages_of_a_secret_stay_out_of_core_dumps() {
        let password = Password::new(b"pw").unwrap();
        let at = password.bytes.as_ptr() as usize;
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        let flags = maps.lines().find(|line| {
            if let Some((from, to)) =
                line.split_once(' ').and_then(|(range, _)| range.split_once('-'))
            {
                let bound = |text| usize::from_str_radix(text, 16).ok();
                if let (Some(from), Some(to)) = (bound(from), bound(to)) {
                    inside = (from..to).contains(&at);
                }
            }
            inside && line.starts_with("VmFlags:")
        });
        let flags = flags.expect("the page is mapped");
        assert!(flags.split_whitespace().any(|flag| flag == "dd"), "{flags}");
    }
}
