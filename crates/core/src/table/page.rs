//! The reference page of all commands, made of the table; a test holds docs/commands.md to it.

use super::row::flag;
use super::rows::TABLE;

/// The page as Markdown.
pub fn page() -> String {
    let mut text = String::from(
        "# Commands\n\nMade of the table in `crates/core/src/table/rows.rs` by `make commands`. Arity counts the name; \
         a negative one is the least\nnumber of words. A command marked *loads* reads, or depends on what is there, so a \
         key that workers load is loaded first.\n",
    );
    let mut groups: Vec<&str> = TABLE.iter().map(|row| row.group).collect();
    groups.sort_unstable();
    groups.dedup();
    for group in groups {
        text.push_str(&format!("\n## {group}\n\n| command | arity | kind | what it does |\n|---|---|---|---|\n"));
        for row in TABLE.iter().filter(|row| row.group == group) {
            let kinds = [(flag::READ, "read"), (flag::WRITE, "write"), (flag::LOAD, "loads"), (flag::ADMIN, "admin")];
            let kinds: Vec<&str> = kinds.iter().filter(|(bit, _)| row.has(*bit)).map(|(_, name)| *name).collect();
            text.push_str(&format!("| {} | {} | {} | {} |\n", row.name, row.arity, kinds.join(", "), row.summary));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_up_to_date() {
        let there = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/commands.md");
        let text = std::fs::read_to_string(there).expect("docs/commands.md");
        assert!(text == super::page(), "make commands");
    }
}
