//! Kernel capture: the types that a redirected connection carries, and the `Capture` seam.
//!
//! - input: an accepted socket
//! - output: [`Captured`]: original destination and the process that called `connect(2)`
//! - bound: one record per socket, kept by the kernel with the socket (`BPF_MAP_TYPE_SK_STORAGE`)
//! - on failure: [`CaptureError`]; the caller closes the connection (fail closed)

use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use crate::error::{Fault, Faulty};

mod alive;
pub mod anchors;
mod bridge;
pub mod btf;
pub mod cgroup;
pub mod container;
pub mod events;
pub mod fixed;
pub mod layers;
mod links;
pub mod loader;
pub mod maps;
pub mod netns;
mod nft;
pub mod pins;
mod programs;
pub mod repair;
pub mod session;
mod settings;
mod sockets;
mod syscall;
mod tracing;
mod watch;

/// The destination that the client asked for, before the redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OrigDst(pub SocketAddr);

/// The kernel's identifier of a socket (`SO_COOKIE`), never reused within a boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SocketCookie(pub u64);

/// A cgroup v2 id: the inode number of its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct CgroupId(pub u64);

/// A process for as long as the host is up. A bare pid is reused by the kernel; this is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessKey {
    /// Thread group id in the initial pid namespace.
    pub tgid: u32,
    /// `task_struct.start_boottime` of the group leader, nanoseconds since boot.
    pub start_time_ns: u64,
}

/// An executable file, by the kernel's identifiers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExeId {
    /// `super_block.s_dev`, in the kernel's encoding (20-bit minor).
    pub dev: u32,
    /// Inode number.
    pub ino: u64,
}

/// The process that called `connect(2)`, as the kernel saw it in the hook.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Which process.
    pub key: ProcessKey,
    /// Effective-at-connect user id, in the initial user namespace.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// The process's cgroup (not the socket's).
    pub cgroup_id: CgroupId,
    /// Network namespace cookie of the socket.
    pub netns_cookie: u64,
    /// The executable.
    pub exe: ExeId,
    /// Parent first. At most `weir_ebpf_common::MAX_ANCESTORS`.
    pub ancestors: Vec<ProcessKey>,
    /// Thread name: text that the process chose itself.
    pub comm: String,
    /// Arguments, cut at `weir_ebpf_common::MAX_ARGV_BYTES`: text that the process chose itself.
    pub argv: Vec<String>,
    /// The process tree that it belongs to, if it was begun as an anchor.
    pub anchor: Option<anchors::Membership>,
}

/// What the kernel knows about one redirected connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// Where the client wanted to go.
    pub orig_dst: OrigDst,
    /// The client's own socket.
    pub socket_cookie: SocketCookie,
    /// Who called `connect(2)`.
    pub process: Process,
    /// Whether that process was outside of the captured cgroup: its socket was made inside, and one
    /// of the two was moved or passed on since.
    pub socket_moved: bool,
}

/// The `Capture` seam: kernel socket storage, or a fixed answer in tests without root.
pub trait Capture: Send + Sync + 'static {
    /// Reads the record of an accepted socket.
    ///
    /// # Errors
    /// [`CaptureError::NoRecord`] when the connection did not come through the hooks.
    fn record(&self, socket: BorrowedFd<'_>) -> Result<Captured, CaptureError>;

    /// Who sent a question to the resolver; `orig_dst` is the server that it meant to ask.
    ///
    /// # Errors
    /// [`CaptureError::NoRecord`] when the question did not come through the hooks.
    fn asker(&self, question: Question) -> Result<Captured, CaptureError>;

    /// Tells the kernel that a gateway is alive.
    ///
    /// # Errors
    /// [`CaptureError::Bpf`] when the kernel could not be told.
    fn beat(&self) -> Result<(), CaptureError> {
        Ok(())
    }

    /// What the record knows already of connections that passed unseen.
    ///
    /// # Errors
    /// [`CaptureError::Bpf`]
    fn told_bypassed(&self) -> Result<Told, CaptureError> {
        Ok(Told::default())
    }

    /// Remembers it for the next gateway.
    ///
    /// # Errors
    /// [`CaptureError::Bpf`]
    fn tell_bypassed(&self, _told: Told) -> Result<(), CaptureError> {
        Ok(())
    }
}

/// How many connections that passed unseen are in the record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// How many, since the hooks were attached.
    pub count: u64,
    /// How long ago the kernel had counted so many.
    pub ago: Duration,
}

/// A question to the resolver, by what the resolver sees of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question {
    /// Where it came from.
    pub client: SocketAddr,
    /// The id of a datagram's message; `None` for a connection.
    pub id: Option<u16>,
}

/// Why capture failed.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The socket has no record: somebody connected to the gateway directly.
    #[error("no capture record on the accepted socket")]
    NoRecord,
    /// The programs are attached already.
    #[error("capture is attached already, with pins in {}", .0.display())]
    AlreadyAttached(std::path::PathBuf),
    /// The kernel lacks something that capture needs.
    #[error("this kernel cannot capture: {0}")]
    Unsupported(String),
    /// A network namespace that may have other ways out than the gateway.
    #[error("unknown network namespace: {0}")]
    UnknownNetns(String),
    /// A BPF object, map or link could not be used.
    #[error("{action}: {detail}")]
    Bpf {
        /// What was attempted.
        action: String,
        /// What the kernel or aya answered.
        detail: String,
    },
    /// A file of cgroupfs, bpffs or procfs could not be used.
    #[error("{action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// The pinned maps were made by another version of weir.
    #[error("pinned maps have ABI version {found}, this binary needs {wanted}")]
    AbiVersion {
        /// Version found in the pinned configuration map.
        found: u32,
        /// `weir_ebpf_common::ABI_VERSION`.
        wanted: u32,
    },
}

impl CaptureError {
    /// What was answered, without what was attempted.
    fn detail(self) -> String {
        match self {
            Self::Bpf { detail, .. } => detail,
            other => other.to_string(),
        }
    }
}

impl Faulty for CaptureError {
    fn fault(&self) -> Fault {
        match self {
            Self::NoRecord => Fault::Downstream,
            Self::UnknownNetns(_) => Fault::Policy,
            Self::Unsupported(_)
            | Self::AlreadyAttached(_)
            | Self::Bpf { .. }
            | Self::Io { .. }
            | Self::AbiVersion { .. } => Fault::Internal,
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::NoRecord => "no_capture_record",
            Self::UnknownNetns(_) => "capture_unknown_netns",
            Self::AlreadyAttached(_) => "capture_attached_already",
            Self::Unsupported(_) => "capture_unsupported",
            Self::Bpf { .. } | Self::Io { .. } | Self::AbiVersion { .. } => "capture_failed",
        }
    }
}
