//! Looks identities up as a connection does, among as many jobs and people as there may be: time for
//! each, and that nobody waits.
//!
//! Run on the base commit and on the change, on the same machine; there is no threshold.
#![expect(clippy::print_stdout, reason = "a bench prints its result")]

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use weir_gateway::capture::anchors::{AnchorId, AnchorSource, Membership};
use weir_gateway::clock::WallUs;
use weir_gateway::identify::registry::{MAX_JOBS, MAX_PEOPLE, Registry, SessionKey};
use weir_gateway::identify::standing::{Standing, Verdict};
use weir_gateway::identify::who::Who;

const NOW: WallUs = WallUs(1);
const LATER: WallUs = WallUs(2);
const ROUNDS: u32 = 1_000_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let all = Registry::default();
    let (jobs, people) = (u64::try_from(MAX_JOBS)?, u32::try_from(MAX_PEOPLE)?);
    for id in 0..jobs {
        let name = format!("job-{id}");
        all.begin_job(AnchorId(id), Some(&name))?.bind(who(&name), LATER)?;
    }
    all.completed();
    for uid in 0..people {
        all.bind_person(SessionKey::of(uid, None), who(&format!("person-{uid}")), LATER)?;
    }
    let member = |round: u32| Membership {
        id: AnchorId(u64::from(round) % jobs),
        source: AnchorSource::Fork,
        is_root: false,
        is_ended: false,
    };
    let somebody = |round: u32| SessionKey::of(round % people, None);
    measure("a job's process", Verdict::Verified, |round| {
        all.look_up(Some(member(round)), None, || somebody(round))
    })?;
    measure("a container of a job", Verdict::Verified, |round| {
        all.look_up(None, Some("job-7"), || somebody(round))
    })?;
    measure("a person's process", Verdict::Verified, |round| {
        all.look_up(None, None, || somebody(round))
    })?;
    measure("nobody's process", Verdict::Unidentified, |_| {
        all.look_up(None, None, || SessionKey::of(u32::MAX, None))
    })
}

fn who(name: &str) -> Who {
    Who { display: name.into(), subject: name.into(), issuer: "https://i".into(), ..Who::default() }
}

/// From the record of a socket to who it is and whether that holds.
fn measure(
    what: &str,
    expected: Verdict,
    look_up: impl Fn(u32) -> Standing,
) -> Result<(), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    for round in 0..ROUNDS {
        let standing = look_up(round);
        let settled = pin!(standing.settle()).poll(&mut Context::from_waker(Waker::noop()));
        if settled != Poll::Ready(()) {
            return Err(format!("{what}: a look-up waits").into());
        }
        if standing.verdict(NOW) != expected {
            return Err(format!("{what}: another verdict").into());
        }
        std::hint::black_box(standing.who(NOW));
    }
    let ns = begun.elapsed().as_nanos() / u128::from(ROUNDS);
    println!("identity look-up, {what}: {ns} ns, no wait in {ROUNDS} look-ups");
    Ok(())
}
