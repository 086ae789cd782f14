//! The C interface of the embedded engine, opened at run time. All `unsafe` of the store is here.
//!
//! - input: the path of `libchdb.so`; statements and bytes
//! - output: [`Connection`], and the answers of its statements as borrowed bytes
//! - bound: one statement at a time per connection (a [`Connection`] is neither `Send` nor `Sync`)
//! - on failure: [`EngineError`] with the engine's own code and text
//!
//! The library is never closed: its threads run on, and unmapping it under them crashes. There is
//! no safe binding that loads the engine at run time, which is what keeps it optional.

#![expect(unsafe_code, reason = "the engine has a C interface only")]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::ptr::NonNull;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

/// What the engine answered instead of a result.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct EngineError {
    /// ClickHouse error code; 1002 (unknown exception) when the engine gave none.
    pub(super) code: u32,
    /// The engine's text, `Code: N. DB::Exception: ...`.
    pub(super) text: String,
}

impl EngineError {
    /// An error of the store's own, in the engine's form.
    pub(super) fn new(code: u32, name: &str, what: impl std::fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {what} ({name})") }
    }

    fn from_engine(text: String) -> Self {
        let code = text.strip_prefix("Code: ").and_then(|rest| rest.split('.').next());
        Self { code: code.and_then(|c| c.parse().ok()).unwrap_or(1002), text }
    }
}

type RawConnection = *mut c_void;
type RawAnswer = *mut c_void;
type RawInsert = *mut c_void;

/// `chdb_query_analysis`; `struct_size` tells the engine which fields exist.
#[repr(C)]
#[derive(Default)]
struct Analysis {
    struct_size: u32,
    statement_count: u32,
    flags: u32,
    query_class: u32,
}

const _: () = assert!(size_of::<Analysis>() == 16);

/// `chdb_query_class`: the statement only reads.
const CLASS_READ_ONLY: u32 = 0;

macro_rules! api {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)*) => {
        /// The entry points that the store uses.
        pub(super) struct Api {
            _library: ManuallyDrop<Library>,
            $($name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)*
        }

        impl Api {
            /// Opens the engine. It stays for the life of the process.
            pub(super) fn open(path: &Path) -> Result<&'static Self, String> {
                // SAFETY: loading runs the library's constructors; the path is a file that the
                // operator installed as the engine, and `find_engine` has checked that it exists.
                let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
                let library = ManuallyDrop::new(library.map_err(|e| e.to_string())?);
                $(
                    // SAFETY: the signature is the one of `chdb.h` of the pinned engine; these
                    // symbols exist since 26.7, so an older library fails here by name.
                    let $name = *unsafe {
                        library.get::<unsafe extern "C" fn($($arg),*) $(-> $ret)?>(
                            concat!(stringify!($name), "\0").as_bytes(),
                        )
                    }
                    .map_err(|e| format!("symbol {}: {e}", stringify!($name)))?;
                )*
                Ok(Box::leak(Box::new(Self { _library: library, $($name,)* })))
            }
        }
    };
}

api! {
    chdb_connect: fn(c_int, *mut *mut c_char) -> *mut RawConnection;
    chdb_close_conn: fn(*mut RawConnection);
    chdb_query_with_params_n: fn(RawConnection, *const c_char, usize, *const c_char, usize, *const *const c_char, *const usize, *const *const c_char, *const usize, usize) -> RawAnswer;
    chdb_stream_query_with_params_n: fn(RawConnection, *const c_char, usize, *const c_char, usize, *const *const c_char, *const usize, *const *const c_char, *const usize, usize) -> RawAnswer;
    chdb_stream_fetch_result: fn(RawConnection, RawAnswer) -> RawAnswer;
    chdb_stream_cancel_query: fn(RawConnection, RawAnswer);
    chdb_destroy_query_result: fn(RawAnswer);
    chdb_result_buffer: fn(RawAnswer) -> *mut c_char;
    chdb_result_length: fn(RawAnswer) -> usize;
    chdb_result_rows_written: fn(RawAnswer) -> u64;
    chdb_result_error: fn(RawAnswer) -> *const c_char;
    chdb_stream_insert_n: fn(RawConnection, *const c_char, usize, *const c_char, usize) -> RawInsert;
    chdb_stream_append: fn(RawInsert, *const c_void, usize) -> c_int;
    chdb_stream_done: fn(RawInsert) -> RawAnswer;
    chdb_stream_cancel_insert: fn(RawInsert);
    chdb_stream_insert_error: fn(RawInsert) -> *const c_char;
    chdb_destroy_insert_stream: fn(RawInsert);
    chdb_classify_query_n: fn(RawConnection, *const c_char, usize, *const c_char, usize, *mut Analysis) -> c_int;
    chdb_set_signal_handlers_enabled: fn(c_int);
    chdb_shutdown: fn() -> c_int;
}

impl Api {
    /// Keeps the engine from installing process-wide signal handlers. Before the first connection.
    pub(super) fn leave_signals_alone(&self) {
        // SAFETY: sets a flag of the engine; no connection exists yet.
        unsafe { (self.chdb_set_signal_handlers_enabled)(0) };
    }

    /// Stops the engine. Every [`Connection`] must be gone. The number that it answers is not
    /// documented; it is for the log.
    pub(super) fn shutdown(&self) -> i32 {
        // SAFETY: takes nothing, and the caller has closed all connections.
        unsafe { (self.chdb_shutdown)() }
    }
}

/// Ends the process without running the engine's static destructors, which are known to crash
/// while its threads wind down.
pub(super) fn leave(code: i32) -> ! {
    // SAFETY: `_exit` takes no pointers and does not return.
    unsafe { libc::_exit(code) }
}

/// A connection to the engine's one data directory.
pub(super) struct Connection {
    api: &'static Api,
    handle: NonNull<RawConnection>,
    raw: RawConnection,
}

impl Connection {
    /// Opens a connection with command-line settings such as `--readonly=1`.
    pub(super) fn open(api: &'static Api, args: &[String]) -> Result<Self, EngineError> {
        let wrong = |what: &str| EngineError::new(36, "BAD_ARGUMENTS", what);
        let owned: Vec<CString> = std::iter::once("clickhouse")
            .chain(args.iter().map(String::as_str))
            .map(CString::new)
            .collect::<Result<_, _>>()
            .map_err(|_nul| wrong("an engine argument contains a zero byte"))?;
        let mut argv: Vec<*mut c_char> = owned.iter().map(|s| s.as_ptr().cast_mut()).collect();
        let count = c_int::try_from(argv.len()).map_err(|_big| wrong("too many arguments"))?;
        // SAFETY: `argv` points to `count` strings that outlive the call; the engine copies them.
        let handle = unsafe { (api.chdb_connect)(count, argv.as_mut_ptr()) };
        let refused = || wrong("the engine refused to open its data directory");
        let handle = NonNull::new(handle).ok_or_else(refused)?;
        // SAFETY: a non-null handle points to the connection pointer until it is closed.
        let raw = unsafe { *handle.as_ptr() };
        if raw.is_null() {
            return Err(refused());
        }
        Ok(Self { api, handle, raw })
    }

    /// Runs a statement and returns its whole answer.
    pub(super) fn query(
        &self,
        sql: &str,
        format: &str,
        params: &[(String, String)],
    ) -> Result<Answer, EngineError> {
        self.start(self.api.chdb_query_with_params_n, sql, format, params)
    }

    /// Starts a `SELECT` whose answer arrives in pieces.
    pub(super) fn stream(
        &self,
        sql: &str,
        format: &str,
        params: &[(String, String)],
    ) -> Result<Stream<'_>, EngineError> {
        let head = self.start(self.api.chdb_stream_query_with_params_n, sql, format, params)?;
        Ok(Stream { connection: self, head, open: true })
    }

    fn start(
        &self,
        call: unsafe extern "C" fn(
            RawConnection,
            *const c_char,
            usize,
            *const c_char,
            usize,
            *const *const c_char,
            *const usize,
            *const *const c_char,
            *const usize,
            usize,
        ) -> RawAnswer,
        sql: &str,
        format: &str,
        params: &[(String, String)],
    ) -> Result<Answer, EngineError> {
        let names: Vec<*const c_char> = params.iter().map(|p| p.0.as_ptr().cast()).collect();
        let name_lens: Vec<usize> = params.iter().map(|p| p.0.len()).collect();
        let values: Vec<*const c_char> = params.iter().map(|p| p.1.as_ptr().cast()).collect();
        let value_lens: Vec<usize> = params.iter().map(|p| p.1.len()).collect();
        // SAFETY: the connection is open and used by this thread only; every pointer comes with
        // its length and outlives the call.
        let raw = unsafe {
            call(
                self.raw,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
                names.as_ptr(),
                name_lens.as_ptr(),
                values.as_ptr(),
                value_lens.as_ptr(),
                params.len(),
            )
        };
        Answer::take(self.api, raw)
    }

    /// Starts an insert; `sql` is without its `FORMAT` clause.
    pub(super) fn insert(&self, sql: &str, format: &str) -> Result<Insert<'_>, EngineError> {
        // SAFETY: as in `start`.
        let raw = unsafe {
            (self.api.chdb_stream_insert_n)(
                self.raw,
                sql.as_ptr().cast(),
                sql.len(),
                format.as_ptr().cast(),
                format.len(),
            )
        };
        if raw.is_null() {
            return Err(EngineError::new(1002, "UNKNOWN_EXCEPTION", "the insert did not start"));
        }
        let insert = Insert { connection: self, raw, open: true };
        match insert.error() {
            Some(error) => Err(error),
            None => Ok(insert),
        }
    }

    /// Whether `sql` is one statement that only reads. Anything that does not parse is not.
    pub(super) fn only_reads(&self, sql: &str, database: &str) -> bool {
        let mut analysis = Analysis { struct_size: 16, ..Analysis::default() };
        // SAFETY: as in `start`; `analysis` has the size that it states.
        let answer = unsafe {
            (self.api.chdb_classify_query_n)(
                self.raw,
                sql.as_ptr().cast(),
                sql.len(),
                database.as_ptr().cast(),
                database.len(),
                &raw mut analysis,
            )
        };
        answer == 0 && analysis.statement_count == 1 && analysis.query_class == CLASS_READ_ONLY
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed here only; answers hold no pointer to it, streams and
        // inserts borrow it.
        unsafe { (self.api.chdb_close_conn)(self.handle.as_ptr()) };
    }
}

/// A successful answer.
pub(super) struct Answer {
    api: &'static Api,
    raw: RawAnswer,
}

impl Answer {
    fn take(api: &'static Api, raw: RawAnswer) -> Result<Self, EngineError> {
        if raw.is_null() {
            return Err(EngineError::new(1002, "UNKNOWN_EXCEPTION", "the engine gave no answer"));
        }
        let answer = Self { api, raw };
        // SAFETY: `raw` is an answer that this value owns.
        let error = unsafe { (api.chdb_result_error)(raw) };
        match text(error) {
            Some(error) => Err(EngineError::from_engine(error)),
            None => Ok(answer),
        }
    }

    /// The formatted rows.
    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `raw` is an answer that this value owns.
        let start = unsafe { (self.api.chdb_result_buffer)(self.raw) };
        // SAFETY: as above.
        let len = unsafe { (self.api.chdb_result_length)(self.raw) };
        if start.is_null() || len == 0 {
            return &[];
        }
        // SAFETY: the engine owns `len` bytes at `start` until the answer is destroyed, which
        // the borrow of `self` prevents.
        unsafe { std::slice::from_raw_parts(start.cast::<u8>(), len) }
    }

    /// Rows that an insert wrote.
    pub(super) fn rows_written(&self) -> u64 {
        // SAFETY: `raw` is an answer that this value owns.
        unsafe { (self.api.chdb_result_rows_written)(self.raw) }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // SAFETY: owned by this value, destroyed here only.
        unsafe { (self.api.chdb_destroy_query_result)(self.raw) };
    }
}

/// A running `SELECT`.
pub(super) struct Stream<'c> {
    connection: &'c Connection,
    head: Answer,
    open: bool,
}

impl Stream<'_> {
    /// The next piece, `None` at the end. Each piece repeats the header of its format.
    pub(super) fn next(&mut self) -> Result<Option<Answer>, EngineError> {
        if !self.open {
            return Ok(None);
        }
        let api = self.connection.api;
        // SAFETY: the stream belongs to this open connection and has not ended.
        let raw = unsafe { (api.chdb_stream_fetch_result)(self.connection.raw, self.head.raw) };
        let piece = Answer::take(api, raw);
        if piece.as_ref().map_or(true, |piece| piece.bytes().is_empty()) {
            self.open = false;
            return piece.map(|_end| None);
        }
        piece.map(Some)
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if self.open {
            let api = self.connection.api;
            // SAFETY: the stream belongs to this open connection and has not ended.
            unsafe { (api.chdb_stream_cancel_query)(self.connection.raw, self.head.raw) };
        }
    }
}

/// A running insert; dropped without [`Insert::finish`] it is cancelled.
pub(super) struct Insert<'c> {
    connection: &'c Connection,
    raw: RawInsert,
    open: bool,
}

impl Insert<'_> {
    /// Hands over bytes of the insert's format.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<(), EngineError> {
        let api = self.connection.api;
        // SAFETY: the insert is open; `data` outlives the call and the engine copies it.
        let answer =
            unsafe { (api.chdb_stream_append)(self.raw, data.as_ptr().cast(), data.len()) };
        if answer == 0 {
            return Ok(());
        }
        let silent = || EngineError::new(1002, "UNKNOWN_EXCEPTION", "the insert took no data");
        Err(self.error().unwrap_or_else(silent))
    }

    /// Completes the insert and returns the rows written.
    pub(super) fn finish(mut self) -> Result<u64, EngineError> {
        self.open = false;
        let api = self.connection.api;
        // SAFETY: the insert is open, and closed by this call.
        let raw = unsafe { (api.chdb_stream_done)(self.raw) };
        Answer::take(api, raw).map(|answer| answer.rows_written())
    }

    fn error(&self) -> Option<EngineError> {
        // SAFETY: `raw` is an insert that this value owns.
        let error = unsafe { (self.connection.api.chdb_stream_insert_error)(self.raw) };
        text(error).map(EngineError::from_engine)
    }
}

impl Drop for Insert<'_> {
    fn drop(&mut self) {
        let api = self.connection.api;
        if self.open {
            // SAFETY: the insert is open; cancelling discards what it has not written.
            unsafe { (api.chdb_stream_cancel_insert)(self.raw) };
        }
        // SAFETY: owned by this value, destroyed here only.
        unsafe { (api.chdb_destroy_insert_stream)(self.raw) };
    }
}

/// Copies a C string of the engine; `None` when there is none.
fn text(start: *const c_char) -> Option<String> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the engine's error texts end with a zero byte and live as long as their answer,
    // which the caller holds.
    let text = unsafe { CStr::from_ptr(start) }.to_string_lossy().into_owned();
    (!text.is_empty()).then_some(text)
}
