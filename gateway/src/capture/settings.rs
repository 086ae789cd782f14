//! What the programs are told: their configuration, listeners, and exclusions.
//!
//! - input: [`AttachSpec`]
//! - output: the maps of an object that was loaded, or the answer whether pinned ones still say so
//! - bound: 256 excluded destinations per family
//! - on failure: [`CaptureError`]

use std::net::IpAddr;
use std::path::Path;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Array, HashMap, Map, MapData};
use aya::{Ebpf, Pod};
use weir_ebpf_common::{
    ABI_VERSION, ALIVE_TOLD_AT, Config, FLAG_ALLOW_DNS, FLAG_FAIL_OPEN, FLAG_LEVEL_KNOWN,
    FLAG_REFUSE_QUIC, LISTENER_LOCAL, Listener,
};

use super::loader::{AttachSpec, level, whole_hierarchy};
use super::maps::{bpf, netns_cookie};
use super::{CaptureError, CgroupId, alive, programs};

/// What the programs are told.
pub(super) fn config(spec: &AttachSpec, captured: CgroupId) -> Result<Config, CaptureError> {
    let mut flags = FLAG_REFUSE_QUIC;
    for (set, flag) in [
        (spec.allow_dns, FLAG_ALLOW_DNS),
        (spec.danger_fail_open, FLAG_FAIL_OPEN),
        (whole_hierarchy()?.is_ok(), FLAG_LEVEL_KNOWN),
    ] {
        flags |= if set { flag } else { 0 };
    }
    Ok(Config {
        abi_version: ABI_VERSION,
        flags,
        captured_id: captured.0,
        captured_level: level(&spec.captured)?,
        gateway_port: spec.gateway_port,
        addresses: spec.addresses,
    })
}

/// Tells a loaded object.
pub(super) fn write_maps(
    object: &mut Ebpf,
    spec: &AttachSpec,
    captured: CgroupId,
) -> Result<(), CaptureError> {
    let config = config(spec, captured)?;
    let failed = |name: &str, error: &dyn std::error::Error| bpf(format!("writing {name}"), error);
    Array::<_, Config>::try_from(map(object, "CONFIG")?)
        .and_then(|mut map| map.set(0, config, 0))
        .map_err(|error| failed("CONFIG", &error))?;
    let listener = Listener {
        port: spec.gateway_port,
        addresses: spec.addresses,
        kind: LISTENER_LOCAL,
        ..Listener::default()
    };
    let cookie = netns_cookie()?;
    HashMap::<_, u64, Listener>::try_from(map(object, "NETNS")?)
        .and_then(|mut map| map.insert(cookie, listener, 0))
        .map_err(|error| failed("NETNS", &error))?;
    Array::<_, u32>::try_from(map(object, "DNS")?)
        .and_then(|mut map| map.set(0, u32::from(spec.dns_port), 0))
        .map_err(|error| failed("DNS", &error))?;
    let (v4, v6) = exclusions(spec);
    exclude(object, "EXCLUDE_V4", &v4)?;
    exclude(object, "EXCLUDE_V6", &v6)
}

/// Tells a new object when it was attached: what passed unseen passed later.
pub(super) fn write_attached(object: &mut Ebpf) -> Result<(), CaptureError> {
    let now = alive::now()?;
    Array::<_, u64>::try_from(map(object, "ALIVE")?)
        .and_then(|mut map| map.set(ALIVE_TOLD_AT, now, 0))
        .map_err(|error| bpf("writing ALIVE".into(), &error))
}

type Prefixes<K> = Vec<(u32, K)>;

fn exclusions(spec: &AttachSpec) -> (Prefixes<u32>, Prefixes<[u32; 4]>) {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    for net in &spec.exclude {
        let len = u32::from(net.prefix_len);
        // Without the bits behind the prefix, so that each prefix has one spelling.
        match net.addr {
            IpAddr::V4(addr) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(len)).unwrap_or(0);
                v4.push((len, u32::from_ne_bytes((addr.to_bits() & mask).to_be_bytes())));
            }
            IpAddr::V6(addr) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(len)).unwrap_or(0);
                v6.push((len, words((addr.to_bits() & mask).to_be_bytes())));
            }
        }
    }
    (v4, v6)
}

/// Which of the pinned maps of exclusions hold something else than they should.
pub(super) fn changed_exclusions(spec: &AttachSpec) -> Result<Vec<&'static str>, CaptureError> {
    let (v4, v6) = exclusions(spec);
    let all = [
        ("EXCLUDE_V4", holds(&spec.pin_dir, "EXCLUDE_V4", &v4)?),
        ("EXCLUDE_V6", holds(&spec.pin_dir, "EXCLUDE_V6", &v6)?),
    ];
    Ok(all.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect())
}

fn holds<K: Pod + PartialEq>(
    pin_dir: &Path,
    name: &str,
    wanted: &[(u32, K)],
) -> Result<bool, CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("reading {name}"), error);
    let data = MapData::from_pin(pin_dir.join(name)).map_err(|error| failed(&error))?;
    let map = Map::from_map_data(data).map_err(|error| failed(&error))?;
    let map = LpmTrie::<_, K, u32>::try_from(map).map_err(|error| failed(&error))?;
    let found: Vec<Key<K>> = map.keys().filter_map(Result::ok).collect();
    let has = |len: u32, addr: &K| {
        found.iter().any(|key| {
            let data = key.data();
            key.prefix_len() == len && data == *addr
        })
    };
    let is_wanted = |key: &Key<K>| {
        let data = key.data();
        wanted.iter().any(|(len, addr)| *len == key.prefix_len() && *addr == data)
    };
    Ok(wanted.iter().all(|(len, addr)| has(*len, addr)) && found.iter().all(is_wanted))
}

/// Puts in what is missing before it takes out what an earlier attach left.
fn exclude<K: Pod + PartialEq>(
    object: &mut Ebpf,
    name: &str,
    wanted: &[(u32, K)],
) -> Result<(), CaptureError> {
    let failed = |error: &dyn std::error::Error| bpf(format!("writing {name}"), error);
    let mut map = LpmTrie::<_, K, u32>::try_from(map(object, name)?).map_err(|e| failed(&e))?;
    for (len, data) in wanted {
        map.insert(&Key::new(*len, *data), 1, 0).map_err(|e| failed(&e))?;
    }
    let found: Vec<Key<K>> = map.keys().filter_map(Result::ok).collect();
    for key in found {
        let data = key.data();
        if !wanted.iter().any(|(len, addr)| *len == key.prefix_len() && *addr == data) {
            map.remove(&key).map_err(|e| failed(&e))?;
        }
    }
    Ok(())
}

/// The bytes of an address, in words that keep their order in memory.
pub(super) fn words(octets: [u8; 16]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(octets.chunks_exact(4)) {
        *word = bytes.try_into().map_or(0, u32::from_ne_bytes);
    }
    words
}

pub(super) fn map<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Map, CaptureError> {
    object.map_mut(name).ok_or_else(|| programs::absent(name))
}
