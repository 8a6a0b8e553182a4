//! The statistics that memcached's `stats` tells, under the names that its monitors look for.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::context::Context;
use crate::version::MEMCACHED_VERSION;
use crate::vocabulary::{Error, Kind, Reply};

type Row = (&'static str, u64);

/// The rows of a section, or of the general one.
pub(crate) fn stats(cx: &Context<'_>, section: Option<&[u8]>) -> Result<Reply, Error> {
    Ok(match section {
        None => general(cx),
        Some(b"settings") => settings(cx),
        Some(b"items") => items(cx),
        Some(b"sizes") => Reply::Map(vec![("sizes_status", Reply::Word("disabled"))]),
        // There are no slabs, and keys are not listed here.
        Some(b"slabs" | b"cachedump") => Reply::Map(Vec::new()),
        Some(b"conns") => connections(cx),
        Some(b"reset") => {
            let mut baseline = cx.engine.control.baseline.lock();
            baseline.extend(counted(cx));
            Reply::Ok
        }
        Some(_) => return Err(Error::new(Kind::Unknown, "ERR unknown section")),
    })
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// What only grows, and begins again from 0 with a reset.
fn counted(cx: &Context<'_>) -> Vec<Row> {
    let (store, counters) = (cx.engine.store.stats(), &cx.engine.counters);
    vec![
        ("total_connections", load(&counters.accepted)),
        ("rejected_connections", load(&counters.rejected)),
        ("cmd_total", load(&counters.commands)),
        ("cmd_errors", load(&counters.errors)),
        ("cmd_get", store.hits + store.misses),
        ("get_hits", store.hits),
        ("get_misses", store.misses),
        ("bytes_read", load(&counters.bytes_in)),
        ("bytes_written", load(&counters.bytes_out)),
        ("evictions", store.evicted),
        ("expired", store.expired),
    ]
}

fn general(cx: &Context<'_>) -> Reply {
    let (engine, facts) = (cx.engine, &cx.engine.facts);
    let store = engine.store.stats();
    let number = |number: u64| Reply::Int(number as i64);
    let mut rows = vec![
        ("pid", number(facts.pid.into())),
        ("uptime", number(cx.now.mono.saturating_sub(facts.started) / 1000)),
        ("time", number(cx.now.wall / 1000)),
        ("version", Reply::Word(MEMCACHED_VERSION.strip_prefix("VERSION ").unwrap_or_default())),
        ("pointer_size", number(usize::BITS.into())),
        ("threads", number(facts.threads as u64)),
        ("curr_connections", number(load(&engine.counters.connected))),
        ("curr_items", number(store.items)),
        ("bytes", number(store.used)),
        ("limit_maxbytes", number(engine.store.options().memory)),
    ];
    let baseline = engine.control.baseline.lock();
    for (name, count) in counted(cx) {
        rows.push((name, number(count.saturating_sub(baseline.get(name).copied().unwrap_or(0)))));
    }
    Reply::Map(rows)
}

fn settings(cx: &Context<'_>) -> Reply {
    let (engine, limits) = (cx.engine, &cx.engine.limits);
    let yes = |is: bool| Reply::Word(if is { "yes" } else { "no" });
    Reply::Map(vec![
        ("maxbytes", Reply::Int(engine.store.options().memory as i64)),
        ("tcpport", Reply::Int(engine.facts.port.into())),
        ("udpport", Reply::Int(0)),
        ("evictions", Reply::Word(if engine.store.options().evict { "on" } else { "off" })),
        ("num_threads", Reply::Int(engine.facts.threads as i64)),
        ("item_size_max", Reply::Int(limits.max_value as i64)),
        ("cas_enabled", yes(true)),
        ("binding_protocol", Reply::Word("ascii")),
        ("flush_enabled", yes(true)),
        ("shutdown_command", yes(limits.shutdown)),
    ])
}

/// Items are not sorted into classes by size here: there is one class, if anything is held.
fn items(cx: &Context<'_>) -> Reply {
    let store = cx.engine.store.stats();
    if store.items == 0 {
        return Reply::Map(Vec::new());
    }
    Reply::Map(vec![
        ("items:1:number", Reply::Int(store.items as i64)),
        ("items:1:mem_requested", Reply::Int(store.used as i64)),
        ("items:1:evicted", Reply::Int(store.evicted as i64)),
        ("items:1:outofmemory", Reply::Int(0)),
    ])
}

/// What all connections have in common: a session knows no other.
fn connections(cx: &Context<'_>) -> Reply {
    let counters = &cx.engine.counters;
    Reply::Map(vec![
        ("connected", Reply::Int(load(&counters.connected) as i64)),
        ("buffer_bytes", Reply::Int(cx.engine.client_bytes() as i64)),
    ])
}
