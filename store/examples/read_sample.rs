//! Reads one sample's level from a store: `cargo run --release -p featcache-store --example read_sample STORE`.
//! The README shows these lines; `cargo xtask tidy` compares them.

#[expect(clippy::print_stdout, reason = "an example shows what it read")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args_os().nth(1).ok_or("usage: read_sample STORE")?;
    use featcache_store::{Batch, OpenOptions, ReadOptions, Store};

    let store = Store::open(folder.as_ref(), OpenOptions::default())?;
    let row = store.find(Some("val2017"), "000000000139", "base")?;
    let level = store.level("p4")?;

    let reader = store.reader(ReadOptions::default())?;
    let mut batch = Batch::new(); // its memory is reused by the next read
    reader.read(&[row.id], &[level], None, &mut batch)?; // every checksum is checked
    let features = batch.level(0);
    println!("{:?} {}", features.shape, features.dtype); // [1, 50, 76, 512] bf16
    Ok(())
}
