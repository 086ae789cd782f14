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
