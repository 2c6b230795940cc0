//! setup, demo, test, check, tidy.
fn main() {}
