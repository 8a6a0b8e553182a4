//! Messages of Maelstrom and their answers.

use globalcache_core::limits::Limits;

use crate::stream::{engine, talk, text};

#[test]
fn the_exchange_of_maelstrom_is_answered_byte_for_byte() {
    let input = concat!(
        r#"{"src":"c0","dest":"cache","body":{"type":"init","msg_id":1,"node_id":"cache","node_ids":["cache","n1","n2"]}}"#,
        "\n",
        r#"{"src":"n1","dest":"cache","body":{"type":"get","msg_id":2,"key":"x"}}"#,
        "\n",
        r#"{"src":"n2","dest":"cache","body":{"type":"set","msg_id":3,"key":"x","value":100}}"#,
        "\n",
        r#"{"src":"n1","dest":"cache","body":{"type":"get","msg_id":4,"key":"x"}}"#,
        "\n",
    );
    let wanted = concat!(
        r#"{"src":"cache","dest":"c0","body":{"type":"init_ok","in_reply_to":1,"msg_id":0}}"#,
        "\n",
        r#"{"src":"cache","dest":"n1","body":{"type":"get_ok","in_reply_to":2,"msg_id":1,"value":null}}"#,
        "\n",
        r#"{"src":"cache","dest":"n2","body":{"type":"set_ok","in_reply_to":3,"msg_id":2}}"#,
        "\n",
        r#"{"src":"cache","dest":"n1","body":{"type":"get_ok","in_reply_to":4,"msg_id":3,"value":100}}"#,
        "\n",
    );
    for piece in [1, 7, input.len()] {
        let (answers, closed) = talk(&engine(Limits::default()), input.as_bytes(), &[piece]);
        assert_eq!((String::from_utf8(answers).unwrap().as_str(), closed), (wanted, false));
    }
}

fn bodies(bodies: &[&str]) -> Vec<String> {
    let message = |body| format!("{{\"src\":\"c\",\"dest\":\"cache\",\"body\":{body}}}\n");
    let input: String = bodies.iter().map(message).collect();
    let (answers, closed) = talk(&engine(Limits::default()), input.as_bytes(), &[input.len()]);
    assert!(!closed);
    let answers = String::from_utf8(answers).unwrap();
    let (head, tail) = ("{\"src\":\"cache\",\"dest\":\"c\",\"body\":", "}");
    answers.lines().map(|line| line.strip_prefix(head).unwrap().strip_suffix(tail).unwrap().to_owned()).collect()
}

#[test]
fn every_message_has_its_answer() {
    for (body, answer) in
        [(r#"{"type":"cas","key":3,"from":1,"to":2}"#, r#""error""#), (r#"{"type":"read","key":3}"#, r#""error""#)]
    {
        assert!(bodies(&[body])[0].contains(answer));
    }
    let answers = bodies(&[
        r#"{"type":"cas","msg_id":1,"key":3,"from":1,"to":2}"#,
        r#"{"type":"cas","msg_id":2,"key":3,"from":1,"to":{"a": [1, 2]},"create_if_not_exists":true}"#,
        r#"{"type":"cas","msg_id":3,"key":"3","from":{"a":[1.0,2]},"to":5}"#,
        r#"{"type":"cas","msg_id":4,"key":3,"from":4,"to":6}"#,
        r#"{"type":"read","msg_id":5,"key":3}"#,
        r#"{"type":"read","msg_id":6,"key":"none"}"#,
        r#"{"type":"write","msg_id":7,"key":"w","value":null}"#,
        r#"{"type":"read","msg_id":8,"key":"w"}"#,
        r#"{"type":"incr","msg_id":9,"key":"n"}"#,
        r#"{"type":"incr","msg_id":10,"key":"n","by":-5}"#,
        r#"{"type":"mget","msg_id":11,"keys":["n","none",3]}"#,
        r#"{"type":"delete","msg_id":12,"key":"n"}"#,
        r#"{"type":"invalidate","msg_id":13,"keys":[3,"none"],"tags":["t"]}"#,
        r#"{"type":"get","key":"n"}"#,
        r#"{"type":"set","msg_id":15,"key":"s","value":"a b","ttl_ms":100}"#,
        r#"{"type":"incr","msg_id":16,"key":"s"}"#,
    ]);
    let wanted = [
        r#"{"type":"error","in_reply_to":1,"msg_id":0,"code":20,"text":"no such key"}"#,
        r#"{"type":"cas_ok","in_reply_to":2,"msg_id":1}"#,
        r#"{"type":"cas_ok","in_reply_to":3,"msg_id":2}"#,
        r#"{"type":"error","in_reply_to":4,"msg_id":3,"code":22,"text":"the value is another one"}"#,
        r#"{"type":"read_ok","in_reply_to":5,"msg_id":4,"value":5}"#,
        r#"{"type":"error","in_reply_to":6,"msg_id":5,"code":20,"text":"no such key"}"#,
        r#"{"type":"write_ok","in_reply_to":7,"msg_id":6}"#,
        r#"{"type":"read_ok","in_reply_to":8,"msg_id":7,"value":null}"#,
        r#"{"type":"incr_ok","in_reply_to":9,"msg_id":8,"value":1}"#,
        r#"{"type":"incr_ok","in_reply_to":10,"msg_id":9,"value":-4}"#,
        r#"{"type":"mget_ok","in_reply_to":11,"msg_id":10,"values":[-4,null,5]}"#,
        r#"{"type":"delete_ok","in_reply_to":12,"msg_id":11}"#,
        r#"{"type":"invalidate_ok","in_reply_to":13,"msg_id":12,"count":2}"#,
        r#"{"type":"get_ok","msg_id":13,"value":null}"#,
        r#"{"type":"set_ok","in_reply_to":15,"msg_id":14}"#,
        r#"{"type":"error","in_reply_to":16,"msg_id":15,"code":12,"text":"value is not an integer or out of range"}"#,
    ];
    assert_eq!(answers, wanted);
}

#[test]
fn malformed_messages_are_answered_with_the_code_that_says_so() {
    for (body, code, text) in [
        (r#"{"type":"nonsense","msg_id":1}"#, 10, "unknown type 'nonsense'"),
        (r#"{"msg_id":1,"key":"x"}"#, 12, "body has no type"),
        (r#"{"type":7,"msg_id":1}"#, 12, "body has no type"),
        (r#"{"type":"get","msg_id":1}"#, 12, "the message needs a key"),
        (r#"{"type":"get","msg_id":1,"key":null}"#, 12, "a key is a string or a number"),
        (r#"{"type":"get","msg_id":1,"key":["x"]}"#, 12, "a key is a string or a number"),
        (r#"{"type":"get","msg_id":1,"key":""}"#, 12, "a key has 1 to 65535 bytes"),
        (r#"{"type":"set","msg_id":1,"key":"x"}"#, 12, "the message needs a value"),
        (
            r#"{"type":"set","msg_id":1,"key":"x","value":1,"ttl_ms":0}"#,
            12,
            "ttl_ms is not a number of milliseconds above 0",
        ),
        (r#"{"type":"incr","msg_id":1,"key":"x","by":"1"}"#, 12, "by is not an integer"),
        (r#"{"type":"mget","msg_id":1,"keys":"x"}"#, 12, "keys and tags are lists"),
        (r#"{"type":"init","msg_id":1,"node_id":"n"}"#, 12, "init needs node_ids, a list of strings"),
        (r#"{"type":"invalidate","msg_id":1}"#, 12, "invalidate needs keys or tags"),
    ] {
        let wanted = format!(r#"{{"type":"error","in_reply_to":1,"msg_id":0,"code":{code},"text":"{text}"}}"#);
        assert_eq!(bodies(&[body]), [wanted], "{body}");
    }
    for line in
        ["{", "{}", "{\"src\":1}", "{\"src\":\"a\",\"dest\":\"b\"}", "{\"src\":\"a\",\"dest\":\"b\",\"body\":1}"]
    {
        let (answers, closed) = talk(&engine(Limits::default()), format!("{line}\n").as_bytes(), &[100]);
        let answers = String::from_utf8(answers).unwrap();
        assert!(!closed && answers.contains("\"code\":12") && answers.ends_with("}}\n"), "{line}: {answers}");
    }
}

#[test]
fn a_line_that_never_ends_closes_the_stream_at_its_limit() {
    let limits = Limits { max_value: 1 << 20, max_request: 2 << 20, ..Limits::default() };
    let (answers, closed) = talk(&engine(limits), &vec![b'{'; 3 << 20], &[64 << 10]);
    assert!(closed && text(&answers).contains("too long"));
    let (answers, closed) = talk(&engine(Limits::default()), &b"GET ".repeat(1 << 16), &[64 << 10]);
    assert!(closed && text(&answers).contains("too big inline request"));
}
