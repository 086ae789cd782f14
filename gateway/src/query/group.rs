//! The timeline put together by job or by person.
//!
//! - input: events, oldest first, and by what
//! - output: groups in the order of their first event, each with a title
//! - bound: the events given
//! - on failure: cannot fail; what belongs to nobody is a group of its own
//!
//! Names of different issuers are different people, however equal they look.

use std::collections::HashMap;

use super::timeline::Event;

/// What is put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum By {
    /// A job of a CI system; else a job of the host.
    Job,
    /// Who logged in, or who started the job; else a user of the host.
    Person,
}

/// Title of what belongs to nobody: gaps, and questions and alarms without a process.
const NOBODY: &str = "nobody";

/// Titles and events.
pub fn events(events: Vec<Event>, by: By) -> Vec<(String, Vec<Event>)> {
    let mut places: HashMap<Vec<String>, usize> = HashMap::new();
    let mut groups: Vec<(String, Vec<Event>)> = Vec::new();
    for event in events {
        let (key, title) = match by {
            By::Job => job(&event),
            By::Person => person(&event),
        };
        let place = *places.entry(key).or_insert(groups.len());
        match groups.get_mut(place) {
            Some((_, members)) => members.push(event),
            None => groups.push((title, vec![event])),
        }
    }
    groups
}

fn key(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

/// Whether it is a CI system's job; a person has an actor, too, which is themselves.
const fn is_ci(e: &Event) -> bool {
    !e.run.is_empty() || !e.ci_job.is_empty()
}

fn job(e: &Event) -> (Vec<String>, String) {
    if !is_ci(e) {
        let title = match (e.job_id.as_str(), e.pid) {
            ("", 0) => NOBODY.to_owned(),
            // A cgroup that was gone when it was asked for.
            ("", _) => "no job".to_owned(),
            (name, _) => format!("job {name}"),
        };
        return (key(&["host", &e.host_id, &title]), title);
    }
    let mut title = e.identity.clone();
    for (name, text) in [
        ("repository", &e.repository),
        ("workflow", &e.workflow),
        ("run", &e.run),
        ("job", &e.ci_job),
        ("actor", &e.actor),
    ] {
        if !text.is_empty() {
            title = format!("{title}  {name} {text}");
        }
    }
    let title = format!("{title}  ({})", known_by(e));
    (key(&["ci", &e.issuer, &e.repository, &e.run, &e.ci_job]), title)
}

fn person(e: &Event) -> (Vec<String>, String) {
    if is_ci(e) && !e.actor.is_empty() {
        let title = format!("{}  (starts jobs, {})", e.actor, e.identity_method);
        return (key(&["actor", &e.issuer, &e.actor]), title);
    }
    if e.identity.is_empty() {
        return (key(&["nobody"]), NOBODY.to_owned());
    }
    let title = format!("{}  ({})", e.identity, known_by(e));
    if e.issuer.is_empty() {
        // Users of two hosts are not the same person because they have the same name.
        return (key(&["user", &e.host_id, &e.identity]), title);
    }
    (key(&["subject", &e.issuer, &e.subject]), title)
}

fn known_by(e: &Event) -> String {
    if e.identity_confidence.is_empty() || e.identity_confidence == e.identity_method {
        return e.identity_method.clone();
    }
    format!("{}, {}", e.identity_method, e.identity_confidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(host: &str, job: &str) -> Event {
        Event {
            event: "exchange".into(),
            pid: 7,
            host_id: host.into(),
            job_id: job.into(),
            identity: "user:root".into(),
            identity_method: "uid".into(),
            identity_confidence: "uid".into(),
            ..Event::default()
        }
    }

    fn ci(issuer: &str, run: &str, actor: &str) -> Event {
        Event {
            identity: "acme/app#test".into(),
            identity_method: "github_oidc".into(),
            identity_confidence: "fork".into(),
            issuer: issuer.into(),
            repository: "acme/app#1".into(),
            run: run.into(),
            actor: actor.into(),
            ..user("h", "host")
        }
    }

    fn titles(all: &[Event], by: By) -> Vec<(String, usize)> {
        let groups = events(all.to_vec(), by).into_iter();
        groups.map(|(title, members)| (title, members.len())).collect()
    }

    fn titled(want: &[(&str, usize)]) -> Vec<(String, usize)> {
        want.iter().map(|(title, n)| ((*title).to_owned(), *n)).collect()
    }

    #[test]
    fn jobs_of_one_cgroup_are_told_apart_by_their_runs() {
        let all = [ci("i", "1", "a"), ci("i", "2", "a"), user("h", "host"), ci("i", "1", "a")];
        let title = |run| {
            format!("acme/app#test  repository acme/app#1  run {run}  actor a  (github_oidc, fork)")
        };
        let want = titled(&[(&title(1), 2), (&title(2), 1), ("job host", 1)]);
        assert_eq!(titles(&all, By::Job), want);
    }

    #[test]
    fn equal_names_of_two_issuers_or_hosts_are_two_people() {
        let all = [ci("i", "1", "a"), ci("j", "1", "a"), ci("i", "2", "a")];
        assert_eq!(titles(&all, By::Person).iter().map(|t| t.1).collect::<Vec<_>>(), [2, 1]);
        let all = [user("h", "x"), user("g", "x"), user("h", "y")];
        let want = titled(&[("user:root  (uid)", 2), ("user:root  (uid)", 1)]);
        assert_eq!(titles(&all, By::Person), want);
    }

    #[test]
    fn a_person_has_no_job_of_a_ci_system() {
        let alice = Event {
            identity: "alice@corp.example".into(),
            identity_method: "people_oidc".into(),
            issuer: "i".into(),
            subject: "u-1".into(),
            actor: "alice@corp.example".into(),
            ..user("h", "shell")
        };
        assert_eq!(titles(std::slice::from_ref(&alice), By::Job), titled(&[("job shell", 1)]));
        let want = titled(&[("alice@corp.example  (people_oidc, uid)", 1)]);
        assert_eq!(titles(&[alice], By::Person), want);
    }

    #[test]
    fn what_belongs_to_nobody_is_a_group_of_its_own() {
        let gap = Event { event: "gap".into(), ..Event::default() };
        for by in [By::Job, By::Person] {
            assert_eq!(titles(&[gap.clone(), gap.clone()], by), titled(&[("nobody", 2)]));
        }
    }
}
