//! Writes the inputs to begin with below a directory, one directory for each target: PLACE/TARGET/seed-N.

use std::{env, fs, path::Path};

use akasha::{format, store};

fn main() -> std::io::Result<()> {
    let place = env::args().nth(1).expect("usage: seeds PLACE");
    let of_format = format::fuzz::TARGETS.iter().map(|(name, _)| (*name, format::fuzz::seeds(name)));
    let of_store = store::fuzz::TARGETS.iter().map(|(name, _)| (*name, store::fuzz::seeds(name)));
    for (name, seeds) in of_format.chain(of_store) {
        let dir = Path::new(&place).join(name);
        fs::create_dir_all(&dir)?;
        for (number, seed) in seeds.iter().enumerate() {
            fs::write(dir.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
