//! What files of users allow.

use std::sync::Arc;

use super::*;
use crate::table::redis::place_of;

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
    user.rights().any(|rights| rights.may_run(place_of(command).unwrap()))
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
