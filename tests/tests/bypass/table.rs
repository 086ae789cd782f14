//! The table: every row under every set of layers.

use std::fmt::Write as _;

use weir_gateway::capture::loader::{self, AttachSpec, Layer};

use crate::rows::{Expect, ROWS, Row, Steps};
use crate::world::{Attempt, Outcome, World};

/// Errors that mean "this kernel cannot even try".
const UNSUPPORTED: [i64; 3] =
    [libc::EPROTONOSUPPORT as i64, libc::EAFNOSUPPORT as i64, libc::ESOCKTNOSUPPORT as i64];

struct Set {
    name: &'static str,
    change: fn(&mut AttachSpec),
}

const SETS: [Set; 4] = [
    Set { name: "base", change: |_| {} },
    Set { name: "+devices", change: |spec| spec.devices = vec!["*".into()] },
    Set {
        name: "+nftables",
        change: |spec| {
            spec.devices = vec!["*".into()];
            spec.nftables = true;
        },
    },
    Set {
        name: "+lsm",
        change: |spec| {
            spec.devices = vec!["*".into()];
            spec.nftables = true;
            spec.lsm = true;
        },
    },
];

/// What one column has for a row.
enum Cell {
    Done(Outcome),
    Unsupported,
}

#[test]
fn no_way_past_the_capture_is_unexpected() {
    let world = World::new("table");
    let free = column(&world, None);
    let mut wrong = Vec::new();
    for (row, cell) in ROWS.iter().zip(&free) {
        let shows = match cell {
            Cell::Unsupported => true,
            Cell::Done(outcome) => {
                *outcome == if row.opens { Outcome::Opened } else { Outcome::Leaked }
                    // These fail for reasons of their own, whoever tries.
                    || matches!(row.attempt, "move-user" | "new-netns")
            }
        };
        if !shows {
            wrong.push(format!("{}: without capture {}", row.attempt, text(cell)));
        }
    }
    let mut columns = vec![free];
    let mut all_layers = Vec::new();
    for set in &SETS {
        let mut spec = world.spec();
        (set.change)(&mut spec);
        let (cells, layers) = attached_column(&world, &spec);
        let complaints = complaints(set.name, &cells, &layers);
        if !complaints.is_empty() {
            println!("last frames at the far end: {:#?}", world.last_frames());
        }
        wrong.extend(complaints);
        columns.push(cells);
        all_layers.push(layers);
    }
    print(&columns, &all_layers);
    assert!(wrong.is_empty(), "unexpected:\n{}", wrong.join("\n"));
}

fn complaints(set: &str, cells: &[Cell], layers: &[Layer]) -> Vec<String> {
    let rows = ROWS.iter().zip(cells);
    rows.filter_map(|(row, cell)| {
        complaint(row, cell, layers).map(|what| format!("{}: with {set} {what}", row.attempt))
    })
    .collect()
}

fn attached_column(world: &World, spec: &AttachSpec) -> (Vec<Cell>, Vec<Layer>) {
    let mut layers = Vec::new();
    let cells = column(world, Some((spec, &mut layers)));
    loader::detach(&world.pin_dir).unwrap();
    (cells, layers)
}

fn column(world: &World, attach: Option<(&AttachSpec, &mut Vec<Layer>)>) -> Vec<Cell> {
    let mut existing: Vec<Option<Result<Attempt, i64>>> = ROWS
        .iter()
        .map(|row| {
            (row.steps == Steps::Existing).then(|| {
                let mut attempt = world.start(row.attempt);
                attempt.ready().map(|()| attempt)
            })
        })
        .collect();
    if let Some((spec, layers)) = attach {
        *layers = world.attach(spec);
    }
    ROWS.iter()
        .zip(&mut existing)
        .map(|(row, started)| {
            let two_steps = row.steps != Steps::One;
            let attempt = started.take().unwrap_or_else(|| {
                let mut attempt = world.start(row.attempt);
                let ready = if two_steps { attempt.ready() } else { Ok(()) };
                ready.map(|()| attempt)
            });
            let outcome = match attempt {
                Ok(attempt) => world.judge(attempt, two_steps),
                Err(errno) => Outcome::Refused(errno),
            };
            match outcome {
                Outcome::Refused(errno) if UNSUPPORTED.contains(&errno) => Cell::Unsupported,
                outcome => Cell::Done(outcome),
            }
        })
        .collect()
}

fn complaint(row: &Row, cell: &Cell, layers: &[Layer]) -> Option<String> {
    let Cell::Done(outcome) = cell else { return None };
    let active = |name: &&str| layers.iter().any(|one| one.name == *name && one.is_active());
    let fine = match (row.expect, outcome) {
        (Expect::Captured, Outcome::Captured) => true,
        (Expect::Refused, Outcome::Refused(_)) => true,
        // Packets that are dropped after the call returned.
        (Expect::Refused, Outcome::Opened) => !row.opens,
        (Expect::ClosedBy(by), Outcome::Refused(_)) => by.iter().any(active),
        (Expect::ClosedBy(by), Outcome::Opened) if !row.opens => by.iter().any(active),
        (Expect::ClosedBy(by), Outcome::Leaked | Outcome::Opened) => !by.iter().any(active),
        (Expect::Leaks(_), Outcome::Leaked) => true,
        _ => false,
    };
    (!fine).then(|| format!("{}, expected {:?}", text(cell), row.expect))
}

fn text(cell: &Cell) -> String {
    match cell {
        Cell::Unsupported => "-".into(),
        Cell::Done(Outcome::Captured) => "captured".into(),
        Cell::Done(Outcome::Leaked) => "LEAKS".into(),
        Cell::Done(Outcome::Opened) => "passed".into(),
        Cell::Done(Outcome::Refused(errno)) => {
            let errno = i32::try_from(*errno).unwrap();
            format!("{:?}", nix::errno::Errno::from_raw(errno))
        }
    }
}

fn print(columns: &[Vec<Cell>], layers: &[Vec<Layer>]) {
    let mut out = String::from("\n");
    write!(out, "{:<24} {:<13}", "attempt", "no capture").unwrap();
    for set in &SETS {
        write!(out, " {:<13}", set.name).unwrap();
    }
    out.push_str(" closed by\n");
    for (at, row) in ROWS.iter().enumerate() {
        write!(out, "{:<24}", row.attempt).unwrap();
        for column in columns {
            write!(out, " {:<13}", shown(row, &column[at])).unwrap();
        }
        let closed = match row.expect {
            Expect::Captured | Expect::Refused => "every kernel".to_owned(),
            Expect::ClosedBy(by) => by.join(" or "),
            Expect::Leaks(what) => what.to_owned(),
        };
        writeln!(out, " {closed}").unwrap();
    }
    for (set, layers) in SETS.iter().zip(layers) {
        let one = |layer: &Layer| match &layer.state {
            loader::LayerState::Active => layer.name.to_owned(),
            loader::LayerState::Unavailable(why) => format!("no {} ({why})", layer.name),
        };
        writeln!(out, "{:<10} {}", set.name, layers.iter().map(one).collect::<Vec<_>>().join(", "))
            .unwrap();
    }
    println!("{out}");
}

/// A call that succeeded although nothing of it arrived was dropped on the way.
fn shown(row: &Row, cell: &Cell) -> String {
    match cell {
        Cell::Done(Outcome::Opened) if row.opens => "OPENS".into(),
        Cell::Done(Outcome::Opened) => "dropped".into(),
        other => text(other),
    }
}
