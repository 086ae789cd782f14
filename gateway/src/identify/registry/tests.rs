use super::*;
use crate::identify::standing::Verdict;

const NOW: WallUs = WallUs(1_000);
const LATER: WallUs = WallUs(2_000);

fn who(name: &str) -> Who {
    Who { display: name.into(), subject: name.into(), method: "github_oidc", ..Who::default() }
}

fn member(id: u64) -> Membership {
    Membership { id: AnchorId(id), source: AnchorSource::Fork, is_root: false, is_ended: false }
}

fn alice() -> SessionKey {
    SessionKey::of(1000, None)
}

fn look(all: &Registry, anchor: Option<Membership>, container: Option<&str>) -> (Verdict, String) {
    let standing = all.look_up(anchor, container, alice);
    let name = standing.who(NOW).map_or(String::new(), |who| who.display.to_string());
    (standing.verdict(NOW), name)
}

#[test]
fn an_anchor_is_its_jobs_or_nobodys() {
    let all = Registry::default();
    all.bind_person(alice(), who("alice"), LATER).unwrap();
    let job = all.begin_job(AnchorId(7), Some("build")).unwrap();
    assert_eq!(look(&all, Some(member(7)), None), (Verdict::Unidentified, String::new()));
    job.bind(who("job"), LATER).unwrap();
    assert_eq!(look(&all, Some(member(7)), None), (Verdict::Verified, "job".into()));
    assert_eq!(look(&all, None, Some("build")), (Verdict::Verified, "job".into()));
    // Another tree, also if the user is logged in.
    assert_eq!(look(&all, Some(member(8)), Some("build")).0, Verdict::Unidentified);
    assert_eq!(look(&all, None, None), (Verdict::Verified, "alice".into()));
    job.end(End::Over);
    assert_eq!(look(&all, Some(member(7)), None), (Verdict::Expired, "job".into()));
    let orphan = Membership { is_ended: true, ..member(9) };
    assert_eq!(look(&all, Some(orphan), None).0, Verdict::Expired);
    assert_eq!(job.bind(who("job"), LATER), Err(RegistryError::Ended));
}

#[test]
fn a_cgroup_that_two_jobs_shared_names_nobodys_containers() {
    let all = Registry::default();
    let first = all.begin_job(AnchorId(1), Some("runner")).unwrap();
    first.bind(who("first"), LATER).unwrap();
    first.end(End::Over);
    assert_eq!(look(&all, None, Some("runner")).0, Verdict::Expired);
    let second = all.begin_job(AnchorId(2), Some("runner")).unwrap();
    second.bind(who("second"), LATER).unwrap();
    assert_eq!(look(&all, None, Some("runner")).0, Verdict::Unidentified);
}

#[test]
fn an_identity_is_not_exchanged_and_ends_with_its_token() {
    let all = Registry::default();
    let job = all.begin_job(AnchorId(7), None).unwrap();
    job.bind(who("job"), LATER).unwrap();
    assert_eq!(job.bind(who("other"), LATER), Err(RegistryError::Another));
    let standing = all.look_up(Some(member(7)), None, alice);
    assert_eq!(standing.verdict(LATER), Verdict::Expired);
    assert_eq!(standing.who(LATER).unwrap().state, "expired");
    job.bind(who("job"), WallUs(3_000)).unwrap();
    assert_eq!(standing.verdict(LATER), Verdict::Verified);
}

#[tokio::test]
async fn who_is_taken_back_is_cut() {
    let all = Registry::default();
    all.begin_job(AnchorId(7), None).unwrap().bind(who("job"), LATER).unwrap();
    all.bind_person(alice(), who("alice"), LATER).unwrap();
    let (job, person) = (all.look_up(Some(member(7)), None, alice), all.look_up(None, None, alice));
    assert_eq!(all.revoke("nobody"), 0);
    assert_eq!((all.revoke("7"), all.revoke("alice"), all.revoke("job")), (1, 1, 0));
    job.cut().await;
    person.cut().await;
    assert_eq!((job.verdict(NOW), person.verdict(NOW)), (Verdict::Revoked, Verdict::Revoked));
    // Logging in again is another identity; the cut ones stay cut.
    all.bind_person(alice(), who("alice"), LATER).unwrap();
    assert_eq!(look(&all, None, None).0, Verdict::Verified);
    assert_eq!(person.verdict(NOW), Verdict::Revoked);
}

#[tokio::test(start_paused = true)]
async fn a_connection_waits_for_a_token_but_not_for_long() {
    let all = Registry::default();
    let job = all.begin_job(AnchorId(7), None).unwrap();
    let standing = all.look_up(Some(member(7)), None, alice);
    standing.settle().await;
    assert_eq!(standing.verdict(NOW), Verdict::Unidentified);
    job.refuse();
    standing.settle().await;
    job.bind(who("job"), LATER).unwrap();
    assert_eq!(standing.verdict(NOW), Verdict::Verified);
}

#[test]
fn ended_jobs_make_room_and_living_ones_do_not() {
    let all = Registry::default();
    for id in 0..1024 {
        all.begin_job(AnchorId(id), None).unwrap();
    }
    assert!(all.begin_job(AnchorId(5000), None).is_err());
    all.job(AnchorId(3)).unwrap().end(End::Over);
    assert!(all.begin_job(AnchorId(5000), None).is_ok());
    assert!(all.job(AnchorId(3)).is_none() && all.job(AnchorId(2)).is_some());
}

#[test]
fn sudo_does_not_leave_the_session() {
    let login = Some(Login::Audit { session: 3, uid: 1000 });
    assert_eq!(SessionKey::of(0, login.clone()), SessionKey::of(1000, login));
    assert_ne!(SessionKey::of(0, None), SessionKey::of(1000, None));
}

#[test]
fn what_another_gateway_knew_is_adopted_as_it_stands() {
    let all = Registry::default();
    let active = State::Active(LATER);
    all.adopt(AnchorId(1), Some(("build", true)), Some(who("job")), active).unwrap();
    all.adopt(AnchorId(2), None, Some(who("over")), State::Ended(End::Over)).unwrap();
    all.adopt(AnchorId(3), None, Some(who("revoked")), State::Ended(End::Revoked)).unwrap();
    all.adopt(AnchorId(4), None, None, State::Refused).unwrap();
    let found = |id| look(&all, Some(member(id)), None);
    assert_eq!(found(1), (Verdict::Verified, "job".into()));
    assert_eq!(found(2), (Verdict::Expired, "over".into()));
    assert_eq!(found(3), (Verdict::Revoked, "revoked".into()));
    assert_eq!(found(4).0, Verdict::Unidentified);
    assert_eq!(look(&all, None, Some("build")), (Verdict::Verified, "job".into()));
    // Again, as it stands there now: it was renewed, then revoked. The other one stays what it is.
    all.adopt(AnchorId(1), None, Some(who("job")), State::Active(WallUs(3_000))).unwrap();
    assert_eq!(all.job(AnchorId(1)).unwrap().state(), State::Active(WallUs(3_000)));
    all.adopt(AnchorId(1), None, Some(who("job")), State::Ended(End::Revoked)).unwrap();
    all.adopt(AnchorId(3), None, Some(who("revoked")), active).unwrap();
    assert_eq!((found(1).0, found(3).0), (Verdict::Revoked, Verdict::Revoked));
    let other = all.adopt(AnchorId(4), None, Some(who("job")), active);
    assert_eq!((other, found(4).0), (Ok(()), Verdict::Verified));
    assert!(all.adopt(AnchorId(4), None, Some(who("thief")), active).is_err());
}

#[test]
fn a_cgroup_that_was_shared_before_a_restart_names_nobodys_containers() {
    let all = Registry::default();
    let active = State::Active(LATER);
    // Of the other job nothing is left.
    all.adopt(AnchorId(1), Some(("shared", false)), Some(who("job")), active).unwrap();
    all.adopt(AnchorId(2), Some(("both", true)), Some(who("one")), active).unwrap();
    all.adopt(AnchorId(3), Some(("both", true)), Some(who("two")), active).unwrap();
    for cgroup in ["shared", "both"] {
        assert_eq!(look(&all, None, Some(cgroup)).0, Verdict::Unidentified, "{cgroup}");
    }
    all.adopt(AnchorId(4), Some(("own", true)), Some(who("own")), active).unwrap();
    all.adopt(AnchorId(4), Some(("own", true)), Some(who("own")), active).unwrap();
    assert_eq!(all.only_job("own"), Some(AnchorId(4)));
}

#[tokio::test]
async fn who_is_not_logged_in_at_the_newer_gateway_is_cut_at_the_older_one() {
    let all = Registry::default();
    let bob = SessionKey::of(1001, None);
    all.bind_person(alice(), who("alice"), LATER).unwrap();
    all.bind_person(bob.clone(), who("bob"), LATER).unwrap();
    let (alices, bobs) = (all.person(&alice()).unwrap(), all.person(&bob).unwrap());
    all.follow_people(&[(alice(), who("alice"), WallUs(3_000)), (bob, who("eve"), LATER)]);
    assert_eq!(alices.state(), State::Active(WallUs(3_000)));
    bobs.cut().await;
    assert_eq!(bobs.state(), State::Ended(End::Revoked));
    // A refresh that was under way brings nobody back.
    all.revoke("alice");
    let extended = all.extend_person(alice(), who("alice"), LATER);
    assert_eq!(extended, Err(RegistryError::Ended));
}

#[tokio::test(start_paused = true)]
async fn a_job_that_an_older_gateway_may_have_registered_is_waited_for() {
    let all = Registry::default();
    let begun = tokio::time::Instant::now();
    all.await_job(AnchorId(7)).await;
    assert_eq!(begun.elapsed(), PENDING);
    let begun = tokio::time::Instant::now();
    tokio::join!(all.await_job(AnchorId(7)), async {
        tokio::time::sleep(PENDING / 5).await;
        all.completed();
    });
    assert_eq!(begun.elapsed(), PENDING / 5);
    all.await_job(AnchorId(8)).await;
    assert_eq!(begun.elapsed(), PENDING / 5);
}
