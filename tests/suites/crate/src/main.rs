//! Built by `scripts/suites programs cargo` in a mount.

use serde::Serialize;

#[derive(Serialize)]
struct Saying<'a> {
    said: &'a str,
    times: [u8; 3],
}

fn main() {
    // SAFETY: getpid has no preconditions.
    assert!(unsafe { libc::getpid() } > 0);
    assert_eq!(memchr::memchr(b'-', b"forty-two"), Some(5));
    let saying = Saying { said: "forty-two", times: [1, 2, 3] };
    println!("{}", serde_json::to_string(&saying).unwrap());
}

#[test]
fn it_runs() {
    main();
}
