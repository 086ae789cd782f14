//! Every bound of this package.

/// Bytes before a keyword in which a match may begin; also kept of released text of a channel.
pub const LOOK_BEHIND_BYTES: usize = 96;
/// Bytes after a keyword that a rule is matched in.
pub const WINDOW_BYTES: usize = 512;
/// Bytes of a value that filters look at, and that a channel holds before it swallows: a longer
/// value is replaced at its first certain prefix, and the rest of it is dropped.
pub const MAX_HELD_BYTES: usize = 512;
/// Bytes of one value, with its rest that is swallowed.
pub const MAX_VALUE_BYTES: usize = 16 * 1024;
/// Decoded bytes of one body, all views of it together.
pub const MAX_DECODED_BYTES: usize = 64 * 1024 * 1024;
/// Content encodings around one body; encodings around one value.
pub const MAX_NESTING: usize = 5;
/// Bytes of one event, frame or message of a stream, until it is whole.
pub const MAX_STREAM_EVENT_BYTES: usize = 16 * 1024 * 1024;
/// Texts that one stream joins from deltas at a time.
pub const MAX_STREAM_CHANNELS: usize = 256;
/// Bytes of the event that a held text can be sent in when no more of its own come.
pub const MAX_STREAM_TEMPLATE_BYTES: usize = 16 * 1024;
/// Decoded bytes for each encoded byte of a content encoding; gzip cannot do more than 1032.
pub const MAX_RATIO: usize = 1100;
/// Decoded bytes that a content encoding may make of anything: tiny bodies compress well.
pub const MAX_RATIO_FREE_BYTES: usize = 1024 * 1024;
/// Bytes of one pattern in a rule file.
pub const MAX_PATTERN_BYTES: usize = 32 * 1024;
/// Groups within groups of a pattern.
pub const MAX_PATTERN_NESTING: u32 = 100;
/// Bytes of the automaton that one pattern, or one list of patterns, compiles to.
pub const MAX_COMPILED_BYTES: usize = 4 * 1024 * 1024;
/// Bytes of all automata of one filter.
pub const MAX_FILTER_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of a rule file.
pub const MAX_RULE_FILE_BYTES: usize = 4 * 1024 * 1024;
/// Rules of a rule file.
pub const MAX_RULES: usize = 4096;
/// Bytes of all automata of a rule file together.
pub const MAX_RULE_SET_BYTES: usize = 128 * 1024 * 1024;
/// Texts, and matches in them, that are remembered in case they come again: about 100 bytes each.
pub const MAX_CACHED: usize = 64 * 1024;
