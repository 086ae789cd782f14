//! Process trees: who belongs to a job, whatever it does, and who never does.

use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use weir_ebpf_common::AnchorEntry;
use weir_gateway::capture::anchors::{AnchorError, AnchorSource, Anchors, MAX_ENTRIES, Membership};
use weir_gateway::capture::{ProcessKey, loader};

use crate::tree::{Tree, accept, boot_time_ns, entries, open, sure};
use crate::world::{World, start_ticks, ticks};

const LOOPBACK: &[&str] = &["127.0.0.0/8"];

#[test]
fn every_kind_of_descendant_has_its_jobs_anchor() {
    let world = World::new("descendants", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    for (number, (kind, connections)) in [
        ("child", 1),
        ("grandchild", 1),
        ("daemon", 1),
        ("thread", 1),
        ("exec", 1),
        ("thread-exec", 2),
        ("setuid", 1),
        ("spawn", 1),
        ("pidns", 2),
        ("sibling", 1),
    ]
    .into_iter()
    .enumerate()
    {
        let to = format!("198.18.0.{}:1000", number + 1);
        let mut tree = Tree::start(&world, &[kind, &to]);
        let anchor = anchors.begin(tree.pid()).unwrap();
        assert!(anchor.walk.is_complete && anchor.walk.found == 0, "{kind}: {anchor:?}");
        tree.go();
        let seen = accept(&world, connections);
        for (to, (key, who)) in &seen {
            assert_eq!(*who, sure(&anchor), "{kind} to {to}");
            assert_ne!(key.tgid, tree.pid(), "{kind}");
        }
        tree.done();
        assert!(!anchor.has_ended());
        tree.finish();
        assert!(anchor.has_ended(), "{kind}");
        anchors.end(anchor.id).unwrap();
    }
    assert_eq!(world.counter("anchor_full") + world.counter("anchor_unreadable"), 0);
    // Every process of these trees has exited; what they were is forgotten.
    crate::world::wait_until("no process is anchored", || entries(&world).is_empty());
}

#[test]
fn the_root_itself_and_who_does_not_belong() {
    let world = World::new("root", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut other = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let mut root = Tree::start(&world, &["self", "198.18.1.2:1000"]);
    let anchor = anchors.begin(root.pid()).unwrap();
    assert!(matches!(anchors.begin(root.pid()), Err(AnchorError::IsRoot(id)) if id == anchor.id));
    other.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, None, "an unrelated process");
    root.go();
    let (key, who) = accept(&world, 1).pop_first().unwrap().1;
    assert_eq!(who, sure(&anchor).map(|who| Membership { is_root: true, ..who }));
    assert_eq!(anchors.lookup(key).unwrap(), who);
    assert_eq!(ticks(anchor.started_ns), start_ticks(root.pid()));
    let sibling = ProcessKey { start_time_ns: key.start_time_ns + 1_000_000_000, ..key };
    assert_eq!(anchors.lookup(sibling).unwrap(), None, "the same number at another time");
    other.finish();
    root.finish();
    assert!(matches!(anchors.begin(u32::MAX >> 2), Err(AnchorError::Gone(_))));
    let gone = root.pid();
    assert!(matches!(anchors.begin(gone), Err(AnchorError::Gone(pid)) if pid == gone));
}

#[test]
fn two_jobs_of_one_user_at_once_are_never_confused() {
    const PROCESSES: usize = 100;
    const EACH: usize = 12;
    let world = World::new("storm", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let (processes, each) = (PROCESSES.to_string(), EACH.to_string());
    let mut trees: Vec<Tree> = (1..=3)
        .map(|job| {
            let to = format!("198.18.{job}.1:1000");
            Tree::start(&world, &["--uid", "65534", "storm", &to, &processes, &each])
        })
        .collect();
    let first = anchors.begin(trees[0].pid()).unwrap();
    let second = anchors.begin(trees[1].pid()).unwrap();
    trees.iter_mut().for_each(Tree::go);
    let begun = Instant::now();
    let seen = accept(&world, 3 * PROCESSES * EACH);
    let took = begun.elapsed();
    let mut wrong = Vec::new();
    let mut callers = BTreeSet::new();
    for (to, (key, who)) in &seen {
        let wanted = match to.split('.').nth(2) {
            Some("1") => sure(&first),
            Some("2") => sure(&second),
            // The third has no anchor.
            _ => None,
        };
        callers.insert(*key);
        // Where the kernel missed a fork, it finds the process by ancestry.
        if who.map(|who| (who.id, who.is_ended)) != wanted.map(|who| (who.id, who.is_ended)) {
            wrong.push((to, key, who));
        }
    }
    let repaired = world.counter("anchor_repaired");
    println!(
        "{} connects of {} processes in {took:?}; {repaired} were repaired",
        seen.len(),
        callers.len()
    );
    assert_eq!(wrong, []);
    assert_eq!((seen.len(), callers.len()), (3 * PROCESSES * EACH, 3 * PROCESSES));
    trees.iter_mut().for_each(Tree::done);
    trees.iter_mut().for_each(Tree::finish);
    assert_eq!(world.counter("anchor_ended"), 2);
}

#[test]
fn processes_from_before_the_anchor_are_walked() {
    let world = World::new("older", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start(&world, &["older", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    assert_eq!((anchor.walk.found, anchor.walk.is_complete), (2, true));
    tree.go();
    let walked = sure(&anchor).map(|who| Membership { source: AnchorSource::Walked, ..who });
    for (to, (key, who)) in accept(&world, 2) {
        // Also a child that the kernel saw: the link above it was read from procfs.
        assert_eq!(who, walked, "{to} {key:?}");
    }
    tree.done();
    tree.finish();
    crate::world::wait_until("no process is anchored", || entries(&world).is_empty());
}

#[test]
fn a_tree_that_keeps_forking_is_walked_to_its_end() {
    let world = World::new("forking", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start_silent(&world, &["forking", "198.18.1.1:1000", "8"]);
    let next = || world.accept_v4().1.unwrap().process;
    for _ in 0..20 {
        assert_eq!(next().anchor, None);
    }
    let anchor = anchors.begin(tree.pid()).unwrap();
    let begun = boot_time_ns();
    let (mut later, mut earlier) = (0, 0);
    while later < 200 {
        let process = next();
        let id = process.anchor.map(|who| who.id);
        if process.key.start_time_ns > begun {
            assert_eq!(id, Some(anchor.id), "{:?}", process.key);
            later += 1;
        } else {
            assert!(id.is_none_or(|id| id == anchor.id), "{:?}", process.key);
            earlier += 1;
        }
    }
    assert!(anchor.walk.is_complete, "{:?}", anchor.walk);
    // Found by the walk, or by the kernel when they forked.
    let found = u64::try_from(anchor.walk.found).unwrap() + world.counter("anchor_repaired");
    println!("{earlier} connects before the walk ended; {:?}, in all {found}", anchor.walk);
    assert!(found >= 8, "{found}");
    tree.finish();
}

#[test]
fn orphans_of_an_ended_job_are_marked_and_get_no_other() {
    let world = World::new("orphan", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start(&world, &["orphan", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    tree.go();
    let alive = accept(&world, 1).pop_first().unwrap().1;
    assert_eq!(alive.1, sure(&anchor));
    tree.done();
    tree.finish();
    assert!(anchor.has_ended());
    let ended = sure(&anchor).map(|who| Membership { is_ended: true, ..who });
    let seen = accept(&world, 2);
    assert_eq!(seen["198.18.1.1:1001"], (alive.0, ended), "the daemon");
    assert_eq!(seen["198.18.1.1:1002"].1, ended, "what it forked afterwards");
}

#[test]
fn an_ended_anchor_is_revoked_while_its_root_lives() {
    let world = World::new("revoke", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    anchors.end(anchor.id).unwrap();
    anchors.end(anchor.id).unwrap();
    tree.go();
    let (key, who) = accept(&world, 1).pop_first().unwrap().1;
    assert_eq!(who, sure(&anchor).map(|who| Membership { is_ended: true, ..who }));
    tree.done();
    crate::world::wait_until("the child is forgotten", || !entries(&world).contains(&key.tgid));
    let refused = anchors.begin(tree.pid());
    assert!(matches!(refused, Err(AnchorError::Expired(id)) if id == anchor.id), "{refused:?}");
    tree.finish();
}

#[test]
fn a_job_inside_a_login_has_its_own_anchor() {
    let world = World::new("nested", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut outer = Tree::start(&world, &["older", "198.18.1.1:1000"]);
    let login = anchors.begin(outer.pid()).unwrap();
    assert_eq!(login.walk.found, 2);
    let job = anchors.begin(only_child(outer.pid())).unwrap();
    assert!(job.id > login.id);
    assert_eq!(job.walk.found, 1, "the grandchild");
    outer.go();
    for (to, (_, who)) in accept(&world, 2) {
        assert_eq!(who.map(|who| who.id), Some(job.id), "{to}");
    }
    outer.done();
    assert!(job.has_ended() && !login.has_ended());
    outer.finish();
}

#[test]
fn missed_forks_are_repaired_by_ancestry() {
    let world = World::new("missed", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    // Both below the root were missed; then the lower connects and forks.
    let mut tree = Tree::start(&world, &["older", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    forget_all_but(&world, &[tree.pid()]);
    tree.go();
    let found = sure(&anchor).map(|who| Membership { source: AnchorSource::Walked, ..who });
    for (to, (_, who)) in accept(&world, 2) {
        assert_eq!(who, found, "{to}");
    }
    tree.done();
    assert!(world.counter("anchor_repaired") > 0);
    tree.finish();

    // The parent is the last to know, when it exits.
    let mut tree = Tree::start(&world, &["abandoned", "198.18.1.2:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    let middle = only_child(tree.pid());
    forget_all_but(&world, &[tree.pid(), middle]);
    tree.go();
    let found = sure(&anchor).map(|who| Membership { source: AnchorSource::Walked, ..who });
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, found);
    tree.done();
    tree.finish();

    // Below an anchor with another one inside, ancestry proves nothing.
    let mut tree = Tree::start(&world, &["older", "198.18.1.3:1000"]);
    let outer = anchors.begin(tree.pid()).unwrap();
    let inner = anchors.begin(only_child(tree.pid())).unwrap();
    assert!(outer.id < inner.id);
    forget_all_but(&world, &[tree.pid()]);
    tree.go();
    for (to, (_, who)) in accept(&world, 2) {
        assert_eq!(who, None, "{to}");
    }
    tree.done();
    tree.finish();
}

fn only_child(pid: u32) -> u32 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
    children.unwrap().trim().parse().unwrap()
}

/// As if their forks had been missed.
fn forget_all_but(world: &World, kept: &[u32]) {
    for pid in entries(world).into_iter().filter(|pid| !kept.contains(pid)) {
        open(world).remove(&pid).unwrap();
    }
}

#[test]
fn a_reused_number_inherits_nothing() {
    let world = World::new("reuse", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut job = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let anchor = anchors.begin(job.pid()).unwrap();
    job.go();
    let (old, who) = accept(&world, 1).pop_first().unwrap().1;
    assert_eq!(who, sure(&anchor));
    job.done();
    crate::world::wait_until("the child is forgotten", || !entries(&world).contains(&old.tgid));
    // As if its exit had not been seen, and while its job lives on.
    let stale = AnchorEntry {
        anchor_id: anchor.id.0,
        start_time_ns: old.start_time_ns,
        start_span_ns: 0,
        flags: 0,
    };
    open(&world).insert(old.tgid, stale, 0).unwrap();
    let number = old.tgid.to_string();
    let mut other = Tree::start(&world, &["with-pid", "198.18.2.1:1000", &number]);
    other.go();
    let seen = accept(&world, 2);
    let (new, who) = seen["198.18.2.1:1000"];
    assert_eq!((new.tgid, who), (old.tgid, None));
    assert!(new.start_time_ns > old.start_time_ns);
    assert_eq!(seen["198.18.2.1:1001"].1, None, "its child");
    other.done();
    assert_eq!(world.counter("anchor_stale"), 2, "at its fork and its exit");
    assert_eq!(open(&world).get(&old.tgid, 0).unwrap(), stale, "nobody's exit removes it");
    // A gateway that starts cleans up.
    let resumed = Anchors::open(&world.places.pin_dir).unwrap().resume().unwrap();
    assert_eq!(resumed.iter().map(|one| one.id).collect::<Vec<_>>(), [anchor.id]);
    assert_eq!(entries(&world), BTreeSet::from([job.pid()]));
    other.finish();
    job.finish();
}

#[test]
fn what_nobody_saw_exit_is_swept_and_who_lives_is_not() {
    let world = World::new("sweep", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start(&world, &["older", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    assert_eq!(anchor.walk.found, 2);
    let living = entries(&world);
    assert_eq!(living.len(), 3);
    // As if the program had been skipped at their exits: a number that is free, one that is another
    // process's now, and one of a process that has exited but was not waited for.
    let mut other = Tree::start(&world, &["child", "198.18.1.2:1000"]);
    let mut zombie = std::process::Command::new("true").spawn().unwrap();
    crate::world::wait_until("it has exited", || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", zombie.id())).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('Z')
    });
    let started = |pid: u32| start_ticks(pid) * 10_000_000;
    let mut map = open(&world);
    for (pid, start_time_ns) in [
        (u32::MAX >> 2, anchor.started_ns),
        (other.pid(), started(other.pid()) - 10_000_000),
        (zombie.id(), started(zombie.id())),
    ] {
        let entry =
            AnchorEntry { anchor_id: anchor.id.0, start_time_ns, start_span_ns: 0, flags: 0 };
        map.insert(pid, entry, 0).unwrap();
    }
    assert_eq!(entries(&world).len(), 6);
    anchors.sweep().unwrap();
    assert_eq!(entries(&world), living);
    zombie.wait().unwrap();
    other.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, None);
    tree.go();
    for (to, (_, who)) in accept(&world, 2) {
        assert_eq!(who.map(|who| (who.id, who.is_ended)), Some((anchor.id, false)), "{to}");
    }
    other.done();
    tree.done();
    other.finish();
    tree.finish();
    // The kernel sees to the others itself; an anchor that has ended is nothing to sweep.
    crate::world::wait_until("no process is anchored", || entries(&world).is_empty());
    anchors.sweep().unwrap();
    assert!(anchor.has_ended());
}

#[test]
fn a_full_map_leaves_processes_without_anchor_and_says_so() {
    let world = World::new("full", LOOPBACK);
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut tree = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let mut late = Tree::start(&world, &["child", "198.18.1.2:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    let mut map = open(&world);
    // Beyond every process number.
    let full = (10_000_000_u32..10_100_000)
        .find(|pid| map.insert(pid, AnchorEntry::default(), 0).is_err());
    assert_eq!(full, Some(10_000_000 + MAX_ENTRIES - 1), "the root is in it, too");
    tree.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, None);
    assert_eq!(world.counter("anchor_full"), 1);
    assert!(matches!(anchors.begin(late.pid()), Err(AnchorError::Full)));
    assert_eq!(anchors.resume().unwrap().len(), 1, "the failed one left no root");
    assert_eq!(entries(&world), BTreeSet::from([tree.pid()]));
    let after = anchors.begin(late.pid()).unwrap();
    assert!(after.id > anchor.id);
    late.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, sure(&after));
    tree.finish();
    late.finish();
}

#[test]
fn an_unprivileged_gateway_begins_anchors_and_survives_its_restart() {
    let world = World::new("anchor-user", LOOPBACK);
    let pins = &world.places.pin_dir;
    for dir in pins.ancestors().take(3) {
        std::fs::set_permissions(dir, Permissions::from_mode(0o711)).unwrap();
    }
    for name in ["CONFIG", "ANCHORS", "ANCHOR_ROOTS", "ANCHOR_OUTER"] {
        std::os::unix::fs::chown(pins.join(name), Some(65_534), None).unwrap();
    }
    let mut root = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let pid = root.pid().to_string();
    let gateway = ["--uid", "65534", "begin", pins.to_str().unwrap(), &pid];
    let mut first = Tree::start_silent(&world, &gateway);
    let said = first.line();
    let id = said.strip_prefix("0000000000000000 ").expect(&said);
    drop(first);
    let mut anchors = Anchors::open(pins).unwrap();
    let resumed = anchors.resume().unwrap();
    assert_eq!(resumed[0].id.0.to_string(), id);
    root.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, sure(&resumed[0]));
    root.done();
    root.finish();
    assert!(resumed[0].has_ended());
    assert!(anchors.resume().unwrap().is_empty());

    // Without a restart: it hears of the end.
    let mut root = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let pid = root.pid().to_string();
    let gateway = ["--uid", "65534", "begin", pins.to_str().unwrap(), &pid];
    let mut second = Tree::start_silent(&world, &gateway);
    let later = second.line();
    assert!(later.rsplit(' ').next().unwrap().parse::<u64>().unwrap() > resumed[0].id.0);
    root.end_early();
    assert_eq!(second.line(), "ended");
}

#[test]
fn process_numbers_of_another_namespace_are_refused() {
    let world = World::new("elsewhere", LOOPBACK);
    let pins = world.places.pin_dir.to_str().unwrap();
    Tree::start_silent(&world, &["begin-elsewhere", pins]).finish();
}

#[test]
fn anchors_survive_an_upgrade_and_detach_removes_them() {
    let world = World::new("anchor-upgrade", LOOPBACK);
    let pins = &world.places.pin_dir;
    let mut anchors = Anchors::open(pins).unwrap();
    let mut tree = Tree::start(&world, &["child", "198.18.1.1:1000"]);
    let anchor = anchors.begin(tree.pid()).unwrap();
    let mut spec = world.places.spec(world.port, LOOPBACK);
    spec.upgrade = true;
    assert!(loader::attach(&spec).unwrap().upgraded);
    let layer = || {
        let all = loader::layers(pins).unwrap();
        all.into_iter().find(|layer| layer.name == "anchors").unwrap()
    };
    assert!(layer().is_active(), "{:?}", layer());
    tree.go();
    assert_eq!(accept(&world, 1).pop_first().unwrap().1.1, sure(&anchor));
    assert_eq!(world.counter("anchor_inherited"), 1, "one program saw the fork");
    std::fs::remove_file(pins.join("weir_fork")).unwrap();
    assert!(!layer().is_active(), "{:?}", layer());
    assert!(loader::attach(&spec).unwrap().upgraded);
    assert!(layer().is_active(), "repaired: {:?}", layer());
    tree.finish();
    loader::detach(pins).unwrap();
    assert!(matches!(Anchors::open(pins), Err(AnchorError::Capture(_))));
}

/// Prints what both programs cost, by the kernel's own measure.
#[test]
fn every_fork_of_an_anchored_process_is_seen() {
    const FORKS: u64 = 3000;
    let forks = FORKS.to_string();
    let before: BTreeSet<u32> = programs().map(|info| info.id()).collect();
    let world = World::new("forks", LOOPBACK);
    let stats = aya::sys::enable_stats(aya::sys::Stats::RunTime).unwrap();
    let mut anchors = Anchors::open(&world.places.pin_dir).unwrap();
    let mut seen = Vec::new();
    for is_anchored in [false, true] {
        let earlier = cost(&before);
        let mut tree = Tree::start(&world, &["forks", &forks]);
        if is_anchored {
            anchors.begin(tree.pid()).unwrap();
        }
        tree.go();
        let each: u64 = tree.line().parse().unwrap();
        let now = cost(&before);
        // Other processes of the host fork, too: they have no anchor.
        let runs = now.1 - earlier.1;
        assert!(runs >= 2 * FORKS, "{runs} runs");
        println!(
            "anchored: {is_anchored}; fork, exit and wait: {each} ns; programs: {} ns each of \
             {runs} runs",
            (now.0 - earlier.0) / u128::from(runs)
        );
        tree.finish();
        seen.push(world.counter("anchor_inherited"));
    }
    drop(stats);
    assert_eq!(seen, [0, FORKS]);
}

/// Nanoseconds and runs of the programs at fork and exit that are not among `others`.
fn cost(others: &BTreeSet<u32>) -> (u128, u64) {
    programs().filter(|info| !others.contains(&info.id())).fold((0, 0), |(time, runs), info| {
        (time + info.run_time().as_nanos(), runs + info.run_count())
    })
}

fn programs() -> impl Iterator<Item = aya::programs::ProgramInfo> {
    let ours = |name: &[u8]| name == b"weir_fork" || name == b"weir_exit";
    aya::programs::loaded_programs().filter_map(Result::ok).filter(move |info| ours(info.name()))
}
