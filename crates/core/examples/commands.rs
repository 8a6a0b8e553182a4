//! Prints the reference page of all commands.

fn main() {
    print!("{}", globalcache_core::table::page());
}
