//! Every order in which a client, the server and a load can take their steps.

use super::world::{Step, World};

/// Requests as a client sends them, part by part, and what it is answered when all have run.
pub(super) struct Dialogue {
    pub(super) parts: [&'static str; 3],
    pub(super) replies: [&'static str; 3],
}

pub(super) const DIALOGUES: [Dialogue; 3] = [
    Dialogue {
        parts: ["PING\r\nGET u:1\r\nEC", "HO abcdefghijklmnopqrstuvwxyz\r\n", "PING\r\nGET u:1\r\n"],
        replies: ["+PONG\r\n$1\r\nv\r\n", "$26\r\nabcdefghijklmnopqrstuvwxyz\r\n", "+PONG\r\n$1\r\nv\r\n"],
    },
    Dialogue {
        parts: ["mn\r\nget u:1\r\nset x 0 0", " 26\r\nabcdefghijklmnopqrstuvwxyz\r\n", "mn\r\nget u:1\r\n"],
        replies: ["MN\r\nVALUE u:1 0 1\r\nv\r\nEND\r\n", "STORED\r\n", "MN\r\nVALUE u:1 0 1\r\nv\r\nEND\r\n"],
    },
    // Answers come in any order: they are counted by what no other line has.
    Dialogue {
        parts: [
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":1,\"key\":\"u:1\"}}\n",
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":2,\"key\":\"x:1\"}}\n",
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":3,\"key\":\"u:1\"}}\n",
        ],
        replies: ["\"in_reply_to\":1,", "\"in_reply_to\":2,", "\"in_reply_to\":3,"],
    },
];
pub(super) const JSON: usize = 2;

/// How the surroundings are: bytes that the socket takes, and whether every turn ends with its first request.
const SURROUNDINGS: [(usize, bool); 2] = [(5, false), (1 << 20, true)];

/// Calls `run` with every order of `steps`.
fn orders(steps: &mut Vec<Step>, from: usize, run: &mut impl FnMut(&[Step])) {
    if from == steps.len() {
        return run(steps);
    }
    for index in from..steps.len() {
        // Equal steps in another order are the same.
        if !steps[from..index].contains(&steps[index]) {
            steps.swap(from, index);
            orders(steps, from + 1, run);
            steps.swap(from, index);
        }
    }
}

/// Runs steps, with a round of the server after those whose bit is set, and then everything to its end.
fn run(world: &mut World, dialogue: usize, room: usize, steps: &[Step], served: u32) {
    let what = format!("dialogue {dialogue}, room {room}, {steps:?}, served {served:b}");
    let Dialogue { parts, replies } = &DIALOGUES[dialogue];
    let mut open = world.open(room);
    let mut sent = 0;
    for (index, &step) in steps.iter().enumerate() {
        open.step(step, parts.get(sent).copied().unwrap_or_default());
        sent += usize::from(step == Step::Send);
        // A client that sent its end sends nothing more.
        if served >> index & 1 == 1 {
            open.round();
        }
    }
    open.rounds();
    if steps.contains(&Step::Reset) {
        assert!(open.connection.is_none(), "a client that is gone is kept: {what}");
        return;
    }
    open.step(Step::Load, "");
    loop {
        open.rounds();
        let before = open.got.len();
        open.step(Step::Take, "");
        if !open.rest() && open.got.len() == before {
            break;
        }
    }
    let finished = steps.contains(&Step::Finish);
    assert_eq!(open.connection.is_none(), finished, "open although its client has ended, or closed before: {what}");
    check(&open.got, &replies[..sent], dialogue, &what);
    if !finished {
        open.step(Step::Finish, "");
        open.rounds();
        assert!(open.connection.is_none(), "kept when its client ended at last: {what}");
    }
}

fn check(got: &[u8], replies: &[&str], dialogue: usize, what: &str) {
    let got = String::from_utf8_lossy(got);
    if dialogue == JSON {
        assert_eq!(got.lines().count(), replies.len(), "{what}: {got}");
        assert!(replies.iter().all(|reply| got.matches(reply).count() == 1), "{what}: {got}");
    } else {
        assert_eq!(got, replies.concat(), "{what}");
    }
}

/// Whatever the order in which a client sends, ends, is gone or reads, in which a load ends, and in which the thread comes
/// to take a turn in between: every request that arrived whole is answered, a client that has ended is not kept, one that
/// is gone is not kept even while its request waits, and all others are.
#[test]
fn no_order_of_steps_leaves_a_connection_alone() {
    use Step::{Finish, Load, Reset, Send, Take};
    for (room, short_turns) in SURROUNDINGS {
        let mut world = World::new(short_turns);
        for dialogue in 0..DIALOGUES.len() {
            for end in [&[Load][..], &[Load, Finish], &[Load, Reset], &[Finish], &[Reset]] {
                // Where everything is sent at once, reading changes nothing.
                let reads = if short_turns { &[][..] } else { &[Take] };
                let mut steps = [&[Send, Send, Send], reads, end].concat();
                orders(&mut steps, 0, &mut |steps| {
                    let end = steps.iter().position(|step| matches!(step, Finish | Reset)).unwrap_or(steps.len());
                    // Nobody sends after the end.
                    if steps[end..].contains(&Send) {
                        return;
                    }
                    for served in 0..1 << steps.len() {
                        run(&mut world, dialogue, room, steps, served);
                    }
                });
            }
        }
    }
}
