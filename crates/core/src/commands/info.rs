//! INFO: facts and figures about the server.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::context::Context;
use crate::clock::Now;
use crate::limits::DATABASES;
use crate::state::engine::{Engine, LeaseCounts};
use crate::store::Stats;
use crate::version::{REDIS_VERSION, VERSION};
use crate::vocabulary::{Args, Error, is};

/// A number of bytes as people read it.
fn human(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes}B"),
        1024..0x10_0000 => format!("{:.2}K", bytes as f64 / 1024.0),
        0x10_0000..0x4000_0000 => format!("{:.2}M", bytes as f64 / f64::from(1 << 20)),
        _ => format!("{:.2}G", bytes as f64 / f64::from(1 << 30)),
    }
}

const DB_NAMES: [&str; 16] = [
    "db0", "db1", "db2", "db3", "db4", "db5", "db6", "db7", "db8", "db9", "db10", "db11", "db12", "db13", "db14",
    "db15",
];

/// What the text costs, in keys that are looked at.
const TEXT: usize = 32;

type Section = (&'static str, Vec<(&'static str, String)>);

/// INFO, of the named sections or all.
pub(super) fn info(cx: &mut Context<'_>, sections: Args<'_>) -> Result<String, Error> {
    cx.may_look()?;
    let all = ["all", "default", "everything"];
    let asks = |wanted: &[&str]| sections.iter().any(|name| wanted.iter().any(|known| is(name, known)));
    let everything = sections.is_empty() || asks(&all);
    let lens = std::array::from_fn(|db| cx.len(db as u8));
    let leases = cx.engine.count_leases(|visit| cx.each_holder(visit));
    cx.waits.looked_at += TEXT;
    let wanted = |section: &str| everything || asks(&[section]);
    Ok(text(cx.engine, cx.now, (&cx.stats(), leases), &lens, wanted))
}

/// The text of INFO, of the sections that `wanted` accepts (names in lower case).
fn text(
    engine: &Engine,
    now: Now,
    (stats, leases): (&Stats, LeaseCounts),
    lens: &[u64; DATABASES],
    wanted: impl Fn(&str) -> bool,
) -> String {
    let mut text = String::new();
    for (title, rows) in sections(engine, now, (stats, leases), lens)
        .into_iter()
        .filter(|section| wanted(&section.0.to_ascii_lowercase()))
    {
        if !text.is_empty() {
            text.push_str("\r\n");
        }
        text.push_str(&format!("# {title}\r\n"));
        for (name, value) in rows {
            text.push_str(&format!("{name}:{value}\r\n"));
        }
    }
    text
}

/// What only grows, and begins again from 0 with CONFIG RESETSTAT.
fn counted(engine: &Engine, store: &Stats) -> [(&'static str, u64); 15] {
    let counters = &engine.counters;
    let count = |counter: &AtomicU64| counter.load(Relaxed);
    [
        ("total_connections_received", count(&counters.accepted)),
        ("total_commands_processed", count(&counters.commands)),
        ("rejected_connections", count(&counters.rejected)),
        ("total_net_input_bytes", count(&counters.bytes_in)),
        ("total_net_output_bytes", count(&counters.bytes_out)),
        ("total_error_replies", count(&counters.errors)),
        ("expired_keys", store.expired),
        ("evicted_keys", store.evicted),
        ("keyspace_hits", store.hits),
        ("keyspace_misses", store.misses),
        ("loads", engine.loaders.loads()),
        ("fills_refused_changed", store.refused.changed),
        ("fills_refused_tag", store.refused.tag),
        ("fills_refused_late", store.refused.late),
        ("fills_refused_value", store.refused.value),
    ]
}

/// Lets what INFO counts begin again from 0.
pub(super) fn reset_counts(engine: &Engine, store: Stats) {
    // Names of memcached's counts are others: both resets keep to their own.
    engine.control.baseline.lock().extend(counted(engine, &store));
    engine.counters.longest_turn.store(0, Relaxed);
}

fn sections(
    engine: &Engine,
    now: Now,
    (store, leases): (&Stats, LeaseCounts),
    lens: &[u64; DATABASES],
) -> Vec<Section> {
    let (facts, counters) = (&engine.facts, &engine.counters);
    let count = |counter: &AtomicU64| counter.load(Relaxed).to_string();
    let uptime = now.mono.saturating_sub(facts.started) / 1000;
    let memory = engine.store.options().memory;
    let clients = engine.client_bytes();
    let used = store.used + clients;
    let keyspace = lens.iter().zip(&store.expires).zip(DB_NAMES).filter(|((keys, _), _)| **keys > 0);
    let baseline = engine.control.baseline.lock();
    let counted = counted(engine, store)
        .map(|(name, count)| (name, count.saturating_sub(baseline.get(name).copied().unwrap_or(0)).to_string()));
    let (channels, patterns) = engine.pubsub.counts();
    let now_held = [
        ("pubsub_channels", channels.to_string()),
        ("pubsub_patterns", patterns.to_string()),
        ("tracking_total_keys", store.tracked.to_string()),
        ("leases", leases.standing.to_string()),
        ("leases_unowned", leases.unowned.to_string()),
        ("tracking_total_items", store.tracked_pairs.to_string()),
        ("tracking_total_prefixes", engine.tracking.prefixes().to_string()),
        ("longest_turn_usec", count(&counters.longest_turn)),
    ];
    let word = |text: &str| text.to_owned();
    vec![
        (
            "Server",
            vec![
                ("redis_version", word(REDIS_VERSION)),
                ("redis_mode", word("standalone")),
                ("globalcache_version", word(VERSION)),
                ("os", word(std::env::consts::OS)),
                ("arch_bits", usize::BITS.to_string()),
                ("process_id", facts.pid.to_string()),
                ("run_id", facts.run_id.clone()),
                ("tcp_port", facts.port.to_string()),
                ("server_time_usec", (now.wall * 1000).to_string()),
                ("uptime_in_seconds", uptime.to_string()),
                ("uptime_in_days", (uptime / 86_400).to_string()),
                ("io_threads", facts.threads.to_string()),
            ],
        ),
        (
            "Clients",
            vec![
                ("connected_clients", count(&counters.connected)),
                ("maxclients", facts.max_clients.to_string()),
                ("client_buffer_bytes", clients.to_string()),
                ("tracking_clients", engine.tracking.len().to_string()),
            ],
        ),
        (
            "Memory",
            vec![
                ("used_memory", used.to_string()),
                ("used_memory_human", human(used)),
                ("used_memory_dataset", store.used.to_string()),
                ("maxmemory", memory.to_string()),
                ("maxmemory_human", human(memory)),
                ("maxmemory_policy", word(engine.policy())),
                ("mem_clients_normal", clients.to_string()),
            ],
        ),
        (
            "Persistence",
            vec![
                ("loading", word("0")),
                ("rdb_bgsave_in_progress", word("0")),
                ("rdb_last_save_time", (engine.started_wall(now) / 1000).to_string()),
                ("aof_enabled", word("0")),
            ],
        ),
        ("Stats", counted.into_iter().chain(now_held).collect()),
        (
            "Replication",
            vec![
                ("role", word("master")),
                ("connected_slaves", word("0")),
                ("master_replid", facts.run_id.clone()),
                ("master_repl_offset", word("0")),
            ],
        ),
        ("Cluster", vec![("cluster_enabled", word("0"))]),
        (
            "Keyspace",
            keyspace
                .map(|((keys, expires), name)| (name, format!("keys={keys},expires={expires},avg_ttl=0")))
                .collect(),
        ),
    ]
}
