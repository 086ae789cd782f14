//! Userspace only: the ABI types as plain old data for aya.
//!
//! - input: the ABI types
//! - output: `aya::Pod` for each
//! - bound: none
//! - on failure: cannot fail; the assertions in `lib.rs` exclude padding
#![expect(unsafe_code, reason = "aya::Pod is an unsafe marker trait; aya has no derive for it")]

use crate::event::{Event, Member};
use crate::{
    AnchorEntry, AnchorRoot, Config, Link, Listener, LsmOffsets, Neighbour, Offsets, Peer,
    Question, Record, Tuple,
};

// SAFETY: repr(C), integers only, no padding (asserted), every bit pattern is valid.
unsafe impl aya::Pod for Config {}
// SAFETY: as above.
unsafe impl aya::Pod for Listener {}
// SAFETY: as above.
unsafe impl aya::Pod for Link {}
// SAFETY: as above.
unsafe impl aya::Pod for Peer {}
// SAFETY: as above.
unsafe impl aya::Pod for Neighbour {}
// SAFETY: as above.
unsafe impl aya::Pod for Offsets {}
// SAFETY: as above.
unsafe impl aya::Pod for LsmOffsets {}
// SAFETY: as above.
unsafe impl aya::Pod for Record {}
// SAFETY: as above.
unsafe impl aya::Pod for Tuple {}
// SAFETY: as above.
unsafe impl aya::Pod for Event {}
// SAFETY: as above.
unsafe impl aya::Pod for Member {}
// SAFETY: as above.
unsafe impl aya::Pod for Question {}
// SAFETY: as above.
unsafe impl aya::Pod for AnchorEntry {}
// SAFETY: as above.
unsafe impl aya::Pod for AnchorRoot {}
