//! The judges of a side by what they are for, and its errors by what they mean for the message.
//!
//! - input: a [`Side`]
//! - output: judges, engines; [`Refused`]
//! - bound: none
//! - on failure: cannot fail

use std::sync::Arc;

use weir_inspect::body::Error;
use weir_inspect::engine::Engine;

use super::{Direction, Looking, Plan, Purpose, Side, SideJudge};
use crate::config::inspect::Mode;
use crate::inspect::refused::Refused;

impl Looking {
    /// One of both bodies.
    pub fn side(&self, direction: Direction) -> Side {
        match direction {
            Direction::Request => self.request(),
            Direction::Response => self.response(),
        }
    }
}

impl Side {
    /// Whether a judge of this exchange refused something, or something could not be looked into.
    pub fn is_refused(&self) -> bool {
        self.looking.0.refused.get().is_some()
    }

    /// The eyes on both sides.
    pub(in crate::inspect) fn looking(&self) -> &Looking {
        &self.looking
    }

    /// The host that the exchange is with.
    pub fn host(&self) -> &str {
        self.looking.host()
    }

    /// Whether this is what the client sends.
    pub fn is_request(&self) -> bool {
        self.direction == Direction::Request
    }

    /// Whether what leaves may be something else than what came, or not leave: if not, nobody has to
    /// look before.
    pub fn changes(&self) -> bool {
        self.plan() != Plan::Original || (!self.is_request() && self.looking.route().restore)
    }

    /// The judge of what leaves: it replaces where the plan is [`Plan::Output`] and else refuses or keeps.
    pub fn decider(&self) -> SideJudge {
        match self.plan() {
            Plan::Output => self.judge(),
            Plan::Held | Plan::Original => self.guard(),
        }
    }

    /// Rules for [`Side::decider`]: none where they decide nothing.
    pub fn deciding_engine(&self) -> &Arc<Engine> {
        match self.mode() {
            Mode::Detect => self.no_rules(),
            Mode::Tokenise | Mode::Redact | Mode::Block => self.engine(),
        }
    }

    /// No rules.
    pub fn no_rules(&self) -> &Arc<Engine> {
        self.looking.inspection().no_rules()
    }

    /// As [`Side::judge`], for bytes that are only recorded: it refuses nothing, so that there is something
    /// to record of a refused message.
    pub fn recorder(&self) -> SideJudge {
        SideJudge { side: self.clone(), purpose: Purpose::Record }
    }

    /// A message that cannot be looked into, and must not pass.
    pub fn cannot_be_read(&self, why: &'static str) -> Refused {
        self.looking.refuse(Refused::Unreadable(why))
    }

    /// A signed message in which something would be replaced.
    pub fn cannot_be_changed(&self) -> Refused {
        self.looking.refuse(Refused::Signed)
    }

    /// What an error means, where what was not looked into must not pass.
    pub fn why(&self, error: &Error) -> Refused {
        match error {
            Error::Refused { .. } => self.refused(),
            Error::UnknownEncoding => self.cannot_be_read("its content encoding is not known"),
            Error::UnknownCharset => self.cannot_be_read("its charset is not known"),
            Error::OverBound => self.cannot_be_read("it decodes to too much"),
            Error::Malformed => self.cannot_be_read("its content encoding is broken"),
        }
    }
}
