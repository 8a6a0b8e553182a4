//! One user: its passwords and its rights.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::rules::{Need, Rights, selector};

pub(super) type Hash = [u8; 32];

/// A user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub(super) name: String,
    pub(super) on: bool,
    pub(super) no_password: bool,
    pub(super) hashes: Vec<Hash>,
    pub(super) rights: Rights,
    /// Further rights, each on its own.
    pub(super) selectors: Vec<Rights>,
}

impl User {
    /// A user who may do nothing.
    pub(super) fn new(name: &str) -> User {
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
    pub(super) fn everything(name: &str, hashes: Vec<Hash>) -> User {
        let mut user = User::new(name);
        for rule in ["on", "allkeys", "allchannels", "allcommands"] {
            user.apply(rule).expect("a rule of ours");
        }
        user.no_password = hashes.is_empty();
        user.hashes = hashes;
        user
    }

    pub(super) fn apply(&mut self, rule: &str) -> Result<(), String> {
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

    pub(super) fn complete(&mut self) {
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
    pub(super) fn has_password(&self, hash: &Hash) -> bool {
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

fn same(one: &Hash, other: &Hash) -> bool {
    let differ = one.iter().zip(other).fold(0u8, |differ, (a, b)| differ | (a ^ b));
    // Not to be made into a comparison that ends early.
    std::hint::black_box(differ) == 0
}

pub(super) fn hash(password: &[u8]) -> Hash {
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
