//! Userspace only: the ABI types as plain old data for aya.
//!
//! - input: the ABI types
//! - output: `aya::Pod` for each
//! - bound: none
//! - on failure: cannot fail; the assertions in `lib.rs` exclude padding
#![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait; aya has no derive for it")]

use crate::{Config, Listener, LsmOffsets, Offsets, Record, Tuple};

// SAFETY: repr(C), integers only, no padding (asserted), every bit pattern is valid.
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for Listener {}
// SAFETY: as above.
unsafe impl aya::Pod for Offsets {}
// SAFETY: as above.
unsafe impl aya::Pod for LsmOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Record {}
// SAFETY: as above.
unsafe impl aya::Pod for Tuple {}
