//! Users: who may ask for what, in the words of Redis's ACL files.
//!
//! ```text
//! user app on #9f86d081884c7d65... ~shop:* &news.* +@read +@write -flushall
//! ```
//! `on` and `off`; `#` and the SHA-256 of a password, or `nopass`; `~` and a pattern of keys, `%R~` and `%W~` for those
//! that may only be read or written, `allkeys`; `&` and a pattern of channels, `allchannels`; `+` and `-` with a command
//! or `@` and a category, `allcommands`, `nocommands`. Rules are read from left to right. Nothing is allowed at first.
//!
//! A set of users never changes; a new one takes its place. Passwords are kept as their hashes only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::command::{Row, TABLE, flag, lookup};
use crate::glob;

/// The name of the user that a connection has before it says another.
pub const DEFAULT: &str = "default";

type Hash = [u8; 32];

/// Words that hold as many bits as there are commands.
const WORDS: usize = 4;

/// A set of commands, by their place in the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Commands([u64; WORDS]);

fn place(row: &'static Row) -> usize {
    (std::ptr::from_ref(row) as usize - TABLE.as_ptr() as usize) / size_of::<Row>()
}

impl Commands {
    fn put(&mut self, row: &'static Row, allowed: bool) {
        let place = place(row);
        let bit = 1 << (place % 64);
        let word = &mut self.0[place / 64];
        *word = if allowed { *word | bit } else { *word & !bit };
    }

    fn has(&self, row: &'static Row) -> bool {
        let place = place(row);
        self.0[place / 64] & 1 << (place % 64) != 0
    }
}

/// The categories that a command is in.
pub fn categories(row: &Row) -> impl Iterator<Item = &'static str> {
    const FLAGS: [(u16, &str); 5] = [
        (flag::READ, "read"),
        (flag::WRITE, "write"),
        (flag::FAST, "fast"),
        (flag::ADMIN, "admin"),
        (flag::CONNECTION, "connection"),
    ];
    let by_flag = FLAGS.iter().filter(|(bit, _)| row.flags & bit != 0).map(|(_, name)| *name);
    let group = match row.group {
        "generic" => "keyspace",
        "transactions" => "transaction",
        other => other,
    };
    let dangerous = row.flags & flag::ADMIN != 0 || matches!(row.name, "FLUSHALL" | "FLUSHDB" | "KEYS");
    let slow = row.flags & flag::FAST == 0;
    let rest = [dangerous.then_some("dangerous"), slow.then_some("slow"), Some(group)];
    let mut seen: Vec<&'static str> = by_flag.chain(rest.into_iter().flatten()).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.into_iter()
}

/// Every category.
pub fn all_categories() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = TABLE.iter().flat_map(categories).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its value, or whether there is one, is told.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

impl Need {
    /// What a command does to its keys.
    pub fn of(row: &Row) -> Need {
        let write = row.flags & flag::WRITE != 0;
        // Scripts tell what was there, and who only watches a key hears whether it changes.
        let tells = row.flags & (flag::READ | flag::LOAD) != 0 || row.group == "scripting" || !write;
        Need { read: tells, write }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyRule {
    glob: Vec<u8>,
    read: bool,
    write: bool,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    on: bool,
    no_password: bool,
    hashes: Vec<Hash>,
    commands: Commands,
    keys: Vec<KeyRule>,
    channels: Vec<Vec<u8>>,
    /// The rules as they were read, without the password.
    words: Vec<String>,
}

impl User {
    /// A user who may do nothing.
    fn new(name: &str) -> User {
        User {
            name: name.to_owned(),
            on: false,
            no_password: false,
            hashes: Vec::new(),
            commands: Commands::default(),
            keys: Vec::new(),
            channels: Vec::new(),
            words: Vec::new(),
        }
    }

    /// A user who may do everything.
    fn everything(name: &str, hashes: Vec<Hash>) -> User {
        let mut user = User::new(name);
        for rule in ["on", "allkeys", "allchannels", "allcommands"] {
            user.apply(rule).expect("a rule of ours");
        }
        user.no_password = hashes.is_empty();
        user.hashes = hashes;
        user
    }

    fn apply(&mut self, rule: &str) -> Result<(), String> {
        let set = |user: &mut User, allowed: bool, pick: &dyn Fn(&Row) -> bool| {
            TABLE.iter().filter(|row| pick(row)).for_each(|row| user.commands.put(row, allowed));
        };
        match rule {
            "on" => self.on = true,
            "off" => self.on = false,
            "nopass" => self.no_password = true,
            "resetpass" => (self.no_password, self.hashes) = (false, Vec::new()),
            "allkeys" | "~*" => self.keys.push(KeyRule { glob: b"*".to_vec(), read: true, write: true }),
            "resetkeys" => self.keys.clear(),
            "allchannels" | "&*" => self.channels.push(b"*".to_vec()),
            "resetchannels" => self.channels.clear(),
            "allcommands" | "+@all" => set(self, true, &|_| true),
            "nocommands" | "-@all" => set(self, false, &|_| true),
            "reset" => *self = User::new(&self.name),
            _ => return self.apply_with_argument(rule),
        }
        self.words.push(rule.to_owned());
        Ok(())
    }

    fn apply_with_argument(&mut self, rule: &str) -> Result<(), String> {
        let unknown = || Err(format!("user {}: {}: no such rule", self.name, hidden(rule)));
        if let Some(hash) = rule.strip_prefix('#') {
            let hash = read_hash(hash);
            // The rule itself is not shown: it may be a password put in the wrong place.
            self.hashes.push(hash.ok_or(format!("user {}: # takes 64 hexadecimal digits, a SHA-256", self.name))?);
            return Ok(());
        }
        if rule.starts_with('>') {
            let text = "passwords are kept as hashes: `globalcache hash-password` prints the rule to write";
            return Err(format!("user {}: {text}", self.name));
        }
        if let Some(glob) = rule.strip_prefix('&') {
            self.channels.push(glob.as_bytes().to_vec());
        } else if let Some((access, glob)) = key_rule(rule) {
            let (read, write) = (access.contains('R'), access.contains('W'));
            self.keys.push(KeyRule { glob: glob.as_bytes().to_vec(), read, write });
        } else if let Some((allowed, name)) =
            rule.strip_prefix('+').map(|name| (true, name)).or(rule.strip_prefix('-').map(|name| (false, name)))
        {
            let category = name.strip_prefix('@');
            let named = |row: &&'static Row| match category {
                Some(category) => categories(row).any(|known| known == category.to_ascii_lowercase()),
                None => row.name.eq_ignore_ascii_case(name),
            };
            let rows: Vec<&'static Row> = TABLE.iter().filter(named).collect();
            if rows.is_empty() {
                return Err(format!("user {}: {rule}: no such command or category", self.name));
            }
            rows.into_iter().for_each(|row| self.commands.put(row, allowed));
        } else {
            return unknown();
        }
        self.words.push(rule.to_owned());
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether anybody is let in as this user.
    pub fn needs_no_password(&self) -> bool {
        self.on && self.no_password
    }

    /// Whether it may ask for a command.
    pub fn may_run(&self, row: &'static Row) -> bool {
        self.commands.has(row)
    }

    /// Whether it may do to a key what is needed.
    pub fn may_use(&self, key: &[u8], need: Need) -> bool {
        let may = |wanted: bool, grants: fn(&KeyRule) -> bool| {
            !wanted || self.keys.iter().any(|rule| grants(rule) && glob::matches(&rule.glob, key))
        };
        may(need.read, |rule| rule.read) && may(need.write, |rule| rule.write)
    }

    /// Whether it may do so to all keys that match a pattern: only if one of its own patterns is this one, or all.
    pub fn may_use_all(&self, pattern: &[u8], need: Need) -> bool {
        let covers = |rule: &&KeyRule| rule.glob == b"*" || rule.glob == pattern;
        let may = |wanted: bool, grants: fn(&KeyRule) -> bool| !wanted || self.keys.iter().filter(covers).any(grants);
        may(need.read, |rule| rule.read) && may(need.write, |rule| rule.write)
    }

    /// Whether it may use a channel.
    pub fn may_use_channel(&self, channel: &[u8]) -> bool {
        self.channels.iter().any(|glob| glob::matches(glob, channel))
    }

    /// Whether it may listen to all channels that match a pattern: only if one of its own patterns is this one, or all.
    pub fn may_use_channels(&self, pattern: &[u8]) -> bool {
        self.channels.iter().any(|glob| *glob == b"*" || *glob == pattern)
    }

    /// Whether nothing is kept from it.
    fn is_unlimited(&self) -> bool {
        let all = |rule: &KeyRule| rule.glob == b"*" && rule.read && rule.write;
        TABLE.iter().all(|row| self.commands.has(row))
            && self.keys.iter().any(all)
            && self.channels.iter().any(|glob| glob == b"*")
    }

    /// Whether the password is one of its own. All are compared, each to its end.
    fn has_password(&self, hash: &Hash) -> bool {
        self.hashes.iter().fold(false, |found, known| found | same(known, hash))
    }

    /// A line as it would stand in a file, without passwords.
    pub fn line(&self) -> String {
        let mut line = format!("user {}", self.name);
        let secret = if self.no_password { " nopass".to_owned() } else { " #(hidden)".repeat(self.hashes.len()) };
        let _ = write!(line, " {}{secret}", if self.on { "on" } else { "off" });
        for word in self.words.iter().filter(|word| !matches!(word.as_str(), "on" | "off" | "nopass" | "resetpass")) {
            let _ = write!(line, " {word}");
        }
        line
    }

    /// Its flags, rules of commands, of keys and of channels, as ACL GETUSER tells them.
    pub fn facts(&self) -> (Vec<&'static str>, String, String, String) {
        let mut flags = vec![if self.on { "on" } else { "off" }];
        flags.extend(self.no_password.then_some("nopass"));
        let of = |starts: &[char]| {
            let words = self.words.iter().filter(|word| word.starts_with(starts));
            words.cloned().collect::<Vec<_>>().join(" ")
        };
        let commands = self
            .words
            .iter()
            .filter(|word| word.starts_with(['+', '-']) || matches!(word.as_str(), "allcommands" | "nocommands"));
        let commands = commands.map(|word| match word.as_str() {
            "allcommands" => "+@all",
            "nocommands" => "-@all",
            other => other,
        });
        let commands: Vec<&str> = commands.collect();
        let all = |word: &str, short: &str, rest: String| {
            if self.words.iter().any(|known| known == word) { short.to_owned() } else { rest }
        };
        let commands = if commands.is_empty() { "-@all".to_owned() } else { commands.join(" ") };
        (flags, commands, all("allkeys", "~*", of(&['~', '%'])), all("allchannels", "&*", of(&['&'])))
    }
}

/// `~pattern`, or `%R~`, `%W~`, `%RW~` and a pattern: what it grants, and the pattern.
fn key_rule(rule: &str) -> Option<(&str, &str)> {
    if let Some(glob) = rule.strip_prefix('~') {
        return Some(("RW", glob));
    }
    let (access, glob) = rule.strip_prefix('%')?.split_once('~')?;
    matches!(access, "R" | "W" | "RW" | "WR").then_some((access, glob))
}

/// The beginning of a rule that is not understood: it may hold a secret.
fn hidden(rule: &str) -> String {
    rule.chars().take(1).chain("...".chars()).collect()
}

fn same(one: &Hash, other: &Hash) -> bool {
    let differ = one.iter().zip(other).fold(0u8, |differ, (a, b)| differ | (a ^ b));
    // Not to be made into a comparison that ends early.
    std::hint::black_box(differ) == 0
}

fn hash(password: &[u8]) -> Hash {
    Sha256::digest(password).into()
}

fn read_hash(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// All users of a server at a time.
#[derive(Debug)]
pub struct Users {
    all: RwLock<Arc<BTreeMap<String, Arc<User>>>>,
}

impl Default for Users {
    fn default() -> Users {
        Users::new(&[], "").expect("no rules, no mistake")
    }
}

fn read(passwords: &[String], file: &str) -> Result<BTreeMap<String, Arc<User>>, String> {
    let mut all = BTreeMap::new();
    for (number, line) in file.lines().enumerate() {
        let mut words = line.split_whitespace();
        match words.next() {
            None => continue,
            Some(first) if first.starts_with('#') => continue,
            Some("user") => {}
            Some(_) => return Err(format!("line {}: it begins with neither `user` nor `#`", number + 1)),
        }
        let name = words.next().ok_or(format!("line {}: a user has a name", number + 1))?;
        let mut user = User::new(name);
        for rule in words {
            user.apply(rule).map_err(|text| format!("line {}: {text}", number + 1))?;
        }
        if all.insert(name.to_owned(), Arc::new(user)).is_some() {
            return Err(format!("line {}: user {name} stands there twice", number + 1));
        }
    }
    if !passwords.is_empty() {
        let hashes = passwords.iter().map(|password| hash(password.as_bytes())).collect();
        all.insert(DEFAULT.to_owned(), Arc::new(User::everything(DEFAULT, hashes)));
    } else if all.is_empty() {
        all.insert(DEFAULT.to_owned(), Arc::new(User::everything(DEFAULT, Vec::new())));
    }
    // Where users are named, nobody is let in without a name unless the file says so.
    all.entry(DEFAULT.to_owned()).or_insert_with(|| Arc::new(User::new(DEFAULT)));
    Ok(all)
}

impl Users {
    /// Users of a file, and the passwords of the default user, who may do everything. Without both there is only that
    /// user, and it needs no password. An error names the line and what is wrong with it.
    pub fn new(passwords: &[String], file: &str) -> Result<Users, String> {
        Ok(Users { all: RwLock::new(Arc::new(read(passwords, file)?)) })
    }

    /// Takes other users in their place. Returns the names of those who are not what they were.
    pub fn replace(&self, passwords: &[String], file: &str) -> Result<Vec<String>, String> {
        let new = read(passwords, file)?;
        let mut all = self.all.write();
        let changed = all.iter().filter(|(name, user)| new.get(*name) != Some(user)).map(|(name, _)| name.clone());
        let changed = changed.collect();
        *all = Arc::new(new);
        Ok(changed)
    }

    /// Whether somebody is let in without a password.
    pub fn is_open(&self) -> bool {
        self.all.read().values().any(|user| user.needs_no_password())
    }

    /// All of them, by name.
    pub fn list(&self) -> Vec<Arc<User>> {
        self.all.read().values().cloned().collect()
    }

    /// One of them.
    pub fn get(&self, name: &[u8]) -> Option<Arc<User>> {
        self.all.read().get(std::str::from_utf8(name).ok()?).cloned()
    }

    /// What a connection may do before it says who it is.
    pub fn at_first(&self) -> Access {
        match self.get(DEFAULT.as_bytes()) {
            Some(user) if user.needs_no_password() => Access::of(user),
            _ => Access::Nobody,
        }
    }

    /// What a connection may do that gives this name and password. Whoever there is not is looked at as long as whoever
    /// there is.
    pub fn authenticate(&self, name: &[u8], password: &[u8]) -> Option<Access> {
        let hash = hash(password);
        let known = self.get(name);
        let nobody = User { hashes: vec![[0; 32]], ..User::new("") };
        let user = known.as_deref().unwrap_or(&nobody);
        let good = user.has_password(&hash) | user.no_password;
        known.filter(|user| good && user.on).map(Access::of)
    }
}

/// What a connection may do.
#[derive(Clone, Debug)]
pub enum Access {
    /// Whatever the default user may: it has not asked yet.
    Unknown,
    /// Nothing but to say who it is.
    Nobody,
    /// Everything.
    All(Arc<User>),
    /// What the user may.
    Limited(Arc<User>),
}

impl Access {
    fn of(user: Arc<User>) -> Access {
        if user.is_unlimited() { Access::All(user) } else { Access::Limited(user) }
    }

    /// The user, if it said who it is.
    pub fn user(&self) -> Option<&Arc<User>> {
        match self {
            Access::Unknown | Access::Nobody => None,
            Access::All(user) | Access::Limited(user) => Some(user),
        }
    }

    /// Whether a key may be told to it.
    pub fn may_read(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: true, write: false }),
            Access::Unknown | Access::Nobody => false,
        }
    }

    /// Whether a channel may be told to it.
    pub fn may_hear(&self, channel: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use_channel(channel),
            Access::Unknown | Access::Nobody => false,
        }
    }

    /// Whether it may change a key.
    pub fn may_write(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: false, write: true }),
            Access::Unknown | Access::Nobody => false,
        }
    }

    /// Whether it may ask what is for operators.
    pub fn is_operator(&self) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => lookup(b"CONFIG").is_some_and(|row| user.may_run(row)),
            Access::Unknown | Access::Nobody => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA_OF_TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    fn users(rules: &str) -> Users {
        Users::new(&[], &format!("# a comment\n\nuser app on #{SHA_OF_TEST} {rules}\n")).unwrap()
    }

    fn app(rules: &str) -> Arc<User> {
        users(rules).authenticate(b"app", b"test").unwrap().user().unwrap().clone()
    }

    #[test]
    fn without_users_everybody_may_do_everything() {
        let users = Users::default();
        assert!(users.is_open() && matches!(users.at_first(), Access::All(_)));
    }

    #[test]
    fn with_users_nobody_is_let_in_without_a_name() {
        let users = users("allkeys +@all");
        assert!(!users.is_open() && matches!(users.at_first(), Access::Nobody));
        assert!(users.authenticate(b"app", b"wrong").is_none() && users.authenticate(b"nobody", b"test").is_none());
        assert!(users.authenticate(b"default", b"").is_none());
        assert!(users.authenticate(b"app", b"test").is_some());
    }

    #[test]
    fn rules_are_read_from_left_to_right() {
        let user = app("~shop:* %R~public:* &news.* +@read +set -mget");
        let row = |name: &str| lookup(name.as_bytes()).unwrap();
        for (name, may) in [("GET", true), ("SET", true), ("MGET", false), ("DEL", false), ("FLUSHALL", false)] {
            assert_eq!(user.may_run(row(name)), may, "{name}");
        }
        let (read, write) = (Need { read: true, write: false }, Need { read: false, write: true });
        assert!(user.may_use(b"shop:1", read) && user.may_use(b"shop:1", write));
        assert!(user.may_use(b"public:1", read) && !user.may_use(b"public:1", write));
        assert!(!user.may_use(b"other", read));
        assert!(
            user.may_use_all(b"shop:*", read) && !user.may_use_all(b"shop:1*", read) && !user.may_use_all(b"*", read)
        );
        assert!(user.may_use_channel(b"news.a") && !user.may_use_channel(b"x"));
    }

    #[test]
    fn mistakes_name_their_line_and_hide_what_may_be_secret() {
        for (file, wanted) in [
            ("user a >secret", "line 1: user a: passwords are kept as hashes"),
            ("user a #secret", "line 1: user a: # takes 64"),
            ("user a +nosuch", "line 1: user a: +nosuch: no such command or category"),
            ("user a secret", "line 1: user a: s...: no such rule"),
            ("\nusers a", "line 2: it begins with"),
            ("user a on\nuser a on", "line 2: user a stands there twice"),
        ] {
            let told = Users::new(&[], file).unwrap_err();
            assert!(told.starts_with(wanted) && !told.contains("secret"), "{told}");
        }
    }

    #[test]
    fn a_new_set_tells_who_changed() {
        let users = users("allkeys +@all");
        let file = format!("user app on #{SHA_OF_TEST} allkeys +@read\nuser new on nopass");
        assert_eq!(users.replace(&[], &file).unwrap(), ["app"]);
        assert!(users.replace(&[], "nonsense").is_err());
        assert!(users.authenticate(b"new", b"").is_some());
    }

    #[test]
    fn no_line_tells_a_password() {
        let user = app("allkeys +@all");
        assert!(!format!("{} {:?}", user.line(), user.facts()).contains("9f86"));
    }
}
