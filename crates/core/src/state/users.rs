//! Users: who may ask for what, in the words of Redis's ACL files.
//!
//! ```text
//! user app on #9f86d081884c7d65... ~shop:* &news.* +@read +@write -flushall
//! ```
//! `on` and `off`; `#` and the SHA-256 of a password, `>` and a password, or `nopass`; `~` and a pattern of keys, `%R~`
//! and `%W~` for those that may only be read or written, `allkeys`; `&` and a pattern of channels, `allchannels`; `+` and
//! `-` with a command, a subcommand (`client|id`) or `@` and a category, `allcommands`, `nocommands`; rules in brackets
//! are further rights, each on its own. Rules are read from left to right. Nothing is allowed at first.
//!
//! A set of users never changes; a new one takes its place. Passwords are kept as their hashes only.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use parking_lot::RwLock;
use sha2::{Digest, Sha256};

use crate::glob::Pattern;
use crate::limits::MAX_PATTERN;
use crate::table::redis::{self, CATEGORIES, UNITS};

/// The name of the user that a connection has before it says another.
pub const DEFAULT: &str = "default";

type Hash = [u8; 32];

/// Words that hold as many bits as there are commands.
const WORDS: usize = 4;

/// A set of commands and subcommands, by their places among the units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Commands([u64; WORDS]);

impl Commands {
    fn put(&mut self, place: usize, allowed: bool) {
        let bit = 1 << (place % 64);
        let word = &mut self.0[place / 64];
        *word = if allowed { *word | bit } else { *word & !bit };
    }

    fn put_name(&mut self, name: &str, allowed: bool) {
        if let Some(place) = redis::place_of(name) {
            self.put(place, allowed);
        }
    }

    fn put_all(&mut self, allowed: bool) {
        (0..UNITS.len()).for_each(|place| self.put(place, allowed));
    }

    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & 1 << (place % 64) != 0
    }

    fn has_name(&self, name: &str) -> bool {
        redis::place_of(name).is_some_and(|place| self.has(place))
    }
}

/// What is done to a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Need {
    /// Its value, or whether there is one, is told.
    pub read: bool,
    /// It is changed.
    pub write: bool,
}

/// A pattern, and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Glob {
    text: Vec<u8>,
    pattern: Pattern,
}

impl Glob {
    fn new(text: &str) -> Result<Glob, String> {
        let pattern = Pattern::new(text.as_bytes());
        let pattern = pattern.ok_or_else(|| format!("a pattern is longer than {MAX_PATTERN} bytes"))?;
        Ok(Glob { text: text.as_bytes().to_vec(), pattern })
    }

    fn all() -> Glob {
        Glob::new("*").expect("a pattern of ours")
    }

    /// Whether all that matches a pattern matches this one: only if it is the same one, or matches all.
    fn covers(&self, pattern: &[u8]) -> bool {
        self.text == b"*" || self.text == pattern
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct KeyRule {
    glob: Glob,
    read: bool,
    write: bool,
}

/// What a user may do: the rights of a user, or of one of its selectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    commands: Commands,
    keys: Vec<KeyRule>,
    channels: Vec<Glob>,
    /// The rules as they were read.
    words: Vec<String>,
}

impl Rights {
    fn apply(&mut self, rule: &str) -> Result<(), String> {
        let all = || KeyRule { glob: Glob::all(), read: true, write: true };
        match &*rule.to_ascii_lowercase() {
            "allkeys" | "~*" => self.keys = vec![all()],
            "resetkeys" => self.keys.clear(),
            "allchannels" | "&*" => self.channels = vec![Glob::all()],
            "resetchannels" => self.channels.clear(),
            "allcommands" | "+@all" => self.commands.put_all(true),
            "nocommands" | "-@all" => self.commands.put_all(false),
            _ => self.apply_with_argument(rule)?,
        }
        self.words.push(rule.to_owned());
        Ok(())
    }

    fn apply_with_argument(&mut self, rule: &str) -> Result<(), String> {
        if let Some(glob) = rule.strip_prefix('&') {
            if self.channels.iter().any(|known| known.text == b"*") {
                return Err(format!("{rule}: all channels are allowed already; write resetchannels before it"));
            }
            self.channels.push(Glob::new(glob)?);
        } else if let Some(key) = key_rule(rule).transpose()? {
            if self.has_all_keys() {
                return Err(format!("{rule}: all keys are allowed already; write resetkeys before it"));
            }
            match self.keys.iter_mut().find(|known| known.glob == key.glob) {
                Some(known) => (known.read, known.write) = (known.read | key.read, known.write | key.write),
                None => self.keys.push(key),
            }
        } else if let Some(name) = rule.strip_prefix('+') {
            self.put(name, true).ok_or(format!("{rule}: no such command or category"))?;
        } else if let Some(name) = rule.strip_prefix('-') {
            self.put(name, false).ok_or(format!("{rule}: no such command or category"))?;
        } else {
            return Err(format!("{}: no such rule", hidden(rule)));
        }
        Ok(())
    }

    /// Allows or forbids a command with its subcommands, a subcommand or a category; None if there is none.
    fn put(&mut self, name: &str, allowed: bool) -> Option<()> {
        if let Some(category) = name.strip_prefix('@') {
            let category = CATEGORIES.iter().find(|known| known.eq_ignore_ascii_case(category))?;
            let places = (0..UNITS.len()).filter(|place| UNITS[*place].is_in(category));
            places.for_each(|place| self.commands.put(place, allowed));
        } else if let Some(place) = redis::place_of(name) {
            self.commands.put(place, allowed);
            UNITS[place].subs().for_each(|sub| self.commands.put_name(&sub.name, allowed));
        } else if !redis::is_absent(name) {
            return None;
        }
        Some(())
    }

    /// What follows from other rights: who may fill may answer for a lease in any way, and whoever may wait may stop to.
    /// Every user may name its client by CACHE.SESSION.
    fn complete(&mut self) {
        if self.commands.has_name("cache.fill") {
            ["cache.fail", "cache.renew", "cache.release"].iter().for_each(|name| self.commands.put_name(name, true));
        }
        if self.commands.has_name("cache.fill") || self.commands.has_name("cache.fetch") {
            self.commands.put_name("cache.cancel", true);
        }
        self.commands.put_name("cache.session", true);
    }

    fn has_all_keys(&self) -> bool {
        self.keys.iter().any(|rule| rule.glob.text == b"*" && rule.read && rule.write)
    }

    /// Whether a command or subcommand is allowed, by its place among the units.
    pub fn may_run(&self, place: usize) -> bool {
        self.commands.has(place)
    }

    /// Whether a command is allowed, by its name.
    pub fn may_run_named(&self, name: &str) -> bool {
        self.commands.has_name(name)
    }

    /// Whether a key may be used so: one pattern has to allow all of it.
    pub fn may_use(&self, key: &[u8], need: Need) -> bool {
        self.keys.iter().any(|rule| rule.grants(need) && rule.glob.pattern.matches(key))
    }

    /// Whether all keys that match a pattern may be used so: only if one of its own patterns is this one, or all.
    pub fn may_use_all(&self, pattern: &[u8], need: Need) -> bool {
        self.keys.iter().any(|rule| rule.grants(need) && rule.glob.covers(pattern))
    }

    /// Whether a channel may be used.
    pub fn may_use_channel(&self, channel: &[u8]) -> bool {
        self.channels.iter().any(|glob| glob.pattern.matches(channel))
    }

    /// Whether all channels that match a pattern may be used: only if one of its own patterns is this one, or all.
    pub fn may_use_channels(&self, pattern: &[u8]) -> bool {
        self.channels.iter().any(|glob| glob.covers(pattern))
    }

    fn is_unlimited(&self) -> bool {
        (0..UNITS.len()).all(|place| self.commands.has(place))
            && self.has_all_keys()
            && self.channels.iter().any(|glob| glob.text == b"*")
    }

    /// Rules of commands, of keys and of channels, as ACL GETUSER tells them.
    pub fn facts(&self) -> [String; 3] {
        let of = |pick: &dyn Fn(&str) -> bool| {
            let words = self.words.iter().map(|word| match &*word.to_ascii_lowercase() {
                "allcommands" => "+@all".to_owned(),
                "nocommands" => "-@all".to_owned(),
                "allkeys" => "~*".to_owned(),
                "allchannels" => "&*".to_owned(),
                _ => word.clone(),
            });
            words.filter(|word| pick(word)).collect::<Vec<_>>().join(" ")
        };
        let commands = of(&|word| word.starts_with(['+', '-']));
        let commands = if commands.is_empty() { "-@all".to_owned() } else { commands };
        [commands, of(&|word| word.starts_with(['~', '%'])), of(&|word| word.starts_with('&'))]
    }
}

impl KeyRule {
    fn grants(&self, need: Need) -> bool {
        (self.read || !need.read) && (self.write || !need.write)
    }
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    name: String,
    on: bool,
    no_password: bool,
    hashes: Vec<Hash>,
    rights: Rights,
    /// Further rights, each on its own.
    selectors: Vec<Rights>,
}

impl User {
    /// A user who may do nothing.
    fn new(name: &str) -> User {
        User {
            name: name.to_owned(),
            on: false,
            no_password: false,
            hashes: Vec::new(),
            rights: Rights::default(),
            selectors: Vec::new(),
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
        match &*rule.to_ascii_lowercase() {
            "on" => self.on = true,
            "off" => self.on = false,
            "nopass" => (self.no_password, self.hashes) = (true, Vec::new()),
            "resetpass" => (self.no_password, self.hashes) = (false, Vec::new()),
            // Nothing is kept here that RESTORE could have damaged.
            "sanitize-payload" | "skip-sanitize-payload" => {}
            "clearselectors" => self.selectors.clear(),
            "reset" => *self = User::new(&self.name),
            _ if rule.starts_with('(') => self.selectors.push(selector(rule)?),
            _ if rule.starts_with(['#', '>', '!', '<']) => return self.apply_password(rule),
            _ => return self.rights.apply(rule),
        }
        Ok(())
    }

    /// Adds or removes a password or the hash of one. The rule is not shown: it may be a password put in the wrong place.
    fn apply_password(&mut self, rule: &str) -> Result<(), String> {
        let (kind, text) = rule.split_at(1);
        let hash = if matches!(kind, ">" | "<") { Some(hash(text.as_bytes())) } else { read_hash(text) };
        let hash = hash.ok_or(format!("{kind} takes 64 hexadecimal digits, a SHA-256"))?;
        let known = self.hashes.iter().position(|known| *known == hash);
        match (kind, known) {
            ("#" | ">", None) => self.hashes.push(hash),
            ("#" | ">", Some(_)) => {}
            (_, Some(at)) => _ = self.hashes.remove(at),
            (_, None) => return Err(format!("{kind}...: the user has no such password")),
        }
        self.no_password &= matches!(kind, "!" | "<");
        Ok(())
    }

    fn complete(&mut self) {
        std::iter::once(&mut self.rights).chain(&mut self.selectors).for_each(Rights::complete);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether anybody is let in as this user.
    pub fn needs_no_password(&self) -> bool {
        self.on && self.no_password
    }

    /// Its rights and those of its selectors: one of them has to allow all of a request.
    pub fn rights(&self) -> impl Iterator<Item = &Rights> {
        std::iter::once(&self.rights).chain(&self.selectors)
    }

    /// Its selectors.
    pub fn selectors(&self) -> &[Rights] {
        &self.selectors
    }

    /// Whether it may use a key so, by any command.
    pub fn may_use(&self, key: &[u8], need: Need) -> bool {
        self.rights().any(|rights| rights.may_use(key, need))
    }

    /// Whether it may use a channel.
    pub fn may_use_channel(&self, channel: &[u8]) -> bool {
        self.rights().any(|rights| rights.may_use_channel(channel))
    }

    /// Whether the password is one of its own. All are compared, each to its end.
    fn has_password(&self, hash: &Hash) -> bool {
        self.hashes.iter().fold(false, |found, known| found | same(known, hash))
    }

    /// A line as it would stand in a file, without passwords.
    pub fn line(&self) -> String {
        let secret = if self.no_password { " nopass".to_owned() } else { " #(hidden)".repeat(self.hashes.len()) };
        let mut line = format!("user {} {}{secret}", self.name, if self.on { "on" } else { "off" });
        for word in &self.rights.words {
            let _ = write!(line, " {word}");
        }
        for selector in &self.selectors {
            let _ = write!(line, " ({})", selector.words.join(" "));
        }
        line
    }

    /// Its flags, as ACL GETUSER tells them.
    pub fn flags(&self) -> Vec<&'static str> {
        let mut flags = vec![if self.on { "on" } else { "off" }];
        flags.extend(self.no_password.then_some("nopass"));
        flags
    }

    /// Rules of its commands, keys and channels, as ACL GETUSER tells them.
    pub fn facts(&self) -> [String; 3] {
        self.rights.facts()
    }
}

/// Reads a selector: rules in brackets.
fn selector(rule: &str) -> Result<Rights, String> {
    let inside = rule.trim_start_matches('(').trim_end_matches(')');
    let mut rights = Rights::default();
    inside.split_whitespace().try_for_each(|rule| rights.apply(rule))?;
    Ok(rights)
}

/// `~pattern`, or `%R~`, `%W~`, `%RW~` and a pattern; None if it is no rule of keys.
fn key_rule(rule: &str) -> Option<Result<KeyRule, String>> {
    let (access, glob) = match rule.strip_prefix('~') {
        Some(glob) => ("RW", glob),
        None => rule.strip_prefix('%')?.split_once('~')?,
    };
    let access = access.to_ascii_uppercase();
    let (read, write) = (access.contains('R'), access.contains('W'));
    let is_access = matches!(&*access, "R" | "W" | "RW" | "WR");
    is_access.then(|| Glob::new(glob).map(|glob| KeyRule { glob, read, write }))
}

/// The words of a line, those of a selector as one.
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words: Vec<String> = Vec::new();
    let mut open = false;
    for word in line.split_whitespace() {
        match words.last_mut().filter(|_| open) {
            Some(selector) => {
                selector.push(' ');
                selector.push_str(word);
            }
            None => words.push(word.to_owned()),
        }
        open = words.last().is_some_and(|word| word.starts_with('(') && !word.ends_with(')'));
    }
    if open { Err("a selector has no closing bracket".to_owned()) } else { Ok(words) }
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
        let words = words(line).map_err(|text| format!("line {}: {text}", number + 1))?;
        let mut words = words.iter().map(String::as_str);
        match words.next() {
            None => continue,
            Some(first) if first.starts_with('#') => continue,
            Some("user") => {}
            Some(_) => return Err(format!("line {}: it begins with neither `user` nor `#`", number + 1)),
        }
        let name = words.next().ok_or(format!("line {}: a user has a name", number + 1))?;
        let mut user = User::new(name);
        for rule in words {
            user.apply(rule).map_err(|text| format!("line {}: user {name}: {text}", number + 1))?;
        }
        user.complete();
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
    pub fn initial_access(&self) -> Access {
        match self.get(DEFAULT.as_bytes()) {
            Some(user) if user.needs_no_password() => Access::of(user),
            _ => Access::Unauthenticated,
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
    Unauthenticated,
    /// Everything.
    All(Arc<User>),
    /// What the user may.
    Limited(Arc<User>),
}

impl Access {
    fn of(user: Arc<User>) -> Access {
        if user.rights.is_unlimited() { Access::All(user) } else { Access::Limited(user) }
    }

    /// The user, if it said who it is.
    pub fn user(&self) -> Option<&Arc<User>> {
        match self {
            Access::Unknown | Access::Unauthenticated => None,
            Access::All(user) | Access::Limited(user) => Some(user),
        }
    }

    /// Whether a key may be told to it.
    pub fn may_read(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: true, write: false }),
            Access::Unknown | Access::Unauthenticated => false,
        }
    }

    /// Whether a channel may be told to it.
    pub fn may_hear(&self, channel: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use_channel(channel),
            Access::Unknown | Access::Unauthenticated => false,
        }
    }

    /// Whether it may change a key.
    pub fn may_write(&self, key: &[u8]) -> bool {
        match self {
            Access::All(_) => true,
            Access::Limited(user) => user.may_use(key, Need { read: false, write: true }),
            Access::Unknown | Access::Unauthenticated => false,
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
        assert!(users.is_open() && matches!(users.initial_access(), Access::All(_)));
    }

    #[test]
    fn with_users_nobody_is_let_in_without_a_name() {
        let users = users("allkeys +@all");
        assert!(!users.is_open() && matches!(users.initial_access(), Access::Unauthenticated));
        assert!(users.authenticate(b"app", b"wrong").is_none() && users.authenticate(b"nobody", b"test").is_none());
        assert!(users.authenticate(b"default", b"").is_none());
        assert!(users.authenticate(b"app", b"test").is_some());
    }

    fn may(user: &User, command: &str) -> bool {
        user.rights().any(|rights| rights.may_run_named(command))
    }

    const READ: Need = Need { read: true, write: false };
    const WRITE: Need = Need { read: false, write: true };

    #[test]
    fn rules_are_read_from_left_to_right() {
        let user = app("~shop:* %R~public:* &news.* +@read +set -mget");
        for (name, allowed) in [("get", true), ("set", true), ("mget", false), ("del", false), ("flushall", false)] {
            assert_eq!(may(&user, name), allowed, "{name}");
        }
        assert!(user.may_use(b"shop:1", READ) && user.may_use(b"shop:1", WRITE));
        assert!(user.may_use(b"public:1", READ) && !user.may_use(b"public:1", WRITE));
        assert!(!user.may_use(b"other", READ));
        let all = |pattern: &[u8]| user.rights.may_use_all(pattern, READ);
        assert!(all(b"shop:*") && !all(b"shop:1*") && !all(b"*"));
        assert!(user.may_use_channel(b"news.a") && !user.may_use_channel(b"x"));
    }

    #[test]
    fn what_redis_writes_into_a_file_is_taken() {
        for rules in [
            "sanitize-payload",
            "skip-sanitize-payload",
            "+client|id -config|set",
            "(+get ~x) clearselectors",
            "(+get ~x)",
            "(~a* +@all) (%R~b* +@read)",
            "-@blocking -@hash +@set -debug +readonly +client|pause",
            "ON ALLKEYS RESETKEYS",
            ">password <password",
        ] {
            app(&format!("{rules} resetpass #{SHA_OF_TEST}"));
        }
    }

    #[test]
    fn a_subcommand_has_rights_of_its_own() {
        let user = app("+@connection -client|kill +config|get");
        let wanted = [("client|id", true), ("client|list", true), ("client|kill", false), ("config|get", true)];
        for (name, allowed) in wanted.into_iter().chain([("config|set", false), ("config", false)]) {
            assert_eq!(may(&user, name), allowed, "{name}");
        }
    }

    #[test]
    fn a_password_is_kept_as_its_hash() {
        let file = "user a on nopass >one >two <one";
        let users = Users::new(&[], file).unwrap();
        assert!(users.authenticate(b"a", b"two").is_some() && users.authenticate(b"a", b"one").is_none());
        assert!(!format!("{users:?}").contains("two"));
    }

    #[test]
    fn one_pattern_has_to_allow_all_that_is_done() {
        let user = app("%R~a* %W~*1 %R~b %W~b");
        let both = Need { read: true, write: true };
        assert!(!user.may_use(b"a1", both) && user.may_use(b"a1", READ) && user.may_use(b"a1", WRITE));
        assert!(user.may_use(b"b", both), "rules of one pattern are one");
        assert!(user.may_use(b"a2", Need::default()) && !user.may_use(b"c", Need::default()));
    }

    #[test]
    fn whoever_may_fill_may_answer_for_a_lease() {
        let user = app("+cache.fill -cache.fail");
        for name in ["cache.fail", "cache.renew", "cache.release", "cache.cancel", "cache.session"] {
            assert!(may(&user, name), "{name}");
        }
        assert!(!may(&user, "cache.loader") && !may(&user, "cache.fetch"));
        let worker = app("+@loader");
        assert!(may(&worker, "cache.loader") && may(&worker, "cache.fill") && !may(&worker, "set"));
        assert!(may(&app("+@read"), "cache.cancel") && !may(&app("+@read"), "cache.fail"));
        assert!(may(&app("-@all"), "cache.session"));
    }

    #[test]
    fn mistakes_name_their_line_and_hide_what_may_be_secret() {
        for (file, wanted) in [
            ("user a <secret", "line 1: user a: <...: the user has no such password"),
            ("user a #secret", "line 1: user a: # takes 64"),
            ("user a +nosuch", "line 1: user a: +nosuch: no such command or category"),
            ("user a -@nosuch", "line 1: user a: -@nosuch: no such command or category"),
            ("user a +get|x", "line 1: user a: +get|x: no such command or category"),
            ("user a allchannels &x", "line 1: user a: &x: all channels are allowed already"),
            ("user a ~* ~x", "line 1: user a: ~x: all keys are allowed already"),
            ("user a (+get ~x", "line 1: a selector has no closing bracket"),
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
