//! The columns of who a process acts for, in every row that has a process.
//!
//! - input: [`Who`]
//! - output: RowBinary, in the order of the columns that `row!` declares
//! - bound: texts and groups as [`Who`] bounds them
//! - on failure: encoding cannot fail

use std::sync::Arc;

use super::{Value, put_len};
use crate::identify::who::Who;

impl Value for Arc<Who> {
    fn encode(&self, out: &mut Vec<u8>) {
        // All fields named: a new one is a column, or is left out on purpose.
        let Who {
            display: _,
            method,
            confidence,
            state,
            issuer,
            subject,
            groups,
            repository,
            workflow,
            run,
            ci_job,
            actor,
            runner,
            ids: _,
        } = &**self;
        for text in [method, confidence, state] {
            text.encode(out);
        }
        issuer.encode(out);
        subject.encode(out);
        groups.encode(out);
        for text in [repository, workflow, run, ci_job, actor, runner] {
            text.encode(out);
        }
    }
}

/// The ids of a [`Who`]. Not in every exchange: they are many, and the same for the whole flow.
#[derive(Clone, Debug)]
pub struct Ids(pub Arc<Who>);

impl Value for Ids {
    fn encode(&self, out: &mut Vec<u8>) {
        put_len(self.0.ids.len(), out);
        for (name, value) in &self.0.ids {
            name.encode(out);
            value.encode(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ExchangeRow, FlowRow, Row as _};
    use super::*;

    #[test]
    fn every_column_has_a_value() {
        // Empty texts, an empty list: one byte each.
        let mut out = Vec::new();
        Arc::new(Who::default()).encode(&mut out);
        let first = ExchangeRow::COLUMNS.iter().position(|(name, _)| *name == "identity_method");
        assert_eq!(first.map(|first| ExchangeRow::COLUMNS.len() - first), Some(out.len()));
        let last = |columns: &'static [(&str, &str)]| columns.last().copied();
        assert_eq!(last(FlowRow::COLUMNS), last(ExchangeRow::COLUMNS));
    }

    #[test]
    fn ids_are_a_map() {
        let who = Who { ids: vec![("run_id".into(), "7".into())], ..Who::default() };
        let mut out = Vec::new();
        Ids(Arc::new(who)).encode(&mut out);
        assert_eq!(out, b"\x01\x06run_id\x017");
    }
}
