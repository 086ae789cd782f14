//! Chooses the leaf of a handshake.
//!
//! - input: the ClientHello
//! - output: a leaf for its server name
//! - bound: see `super::mint`
//! - on failure: `None`; rustls then sends the alert `access_denied`

use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::mint::Mint;

/// Mints for the name in SNI.
#[derive(Debug)]
pub(super) struct ResolveBySni(pub(super) Arc<Mint>);

impl ResolvesServerCert for ResolveBySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name()?.trim_end_matches('.').to_ascii_lowercase();
        match self.0.leaf(&name) {
            Ok(leaf) => Some(leaf),
            Err(error) => {
                tracing::error!(%error, "no leaf");
                None
            }
        }
    }
}

/// One leaf, for clients without SNI.
#[derive(Debug)]
pub(super) struct Fixed(pub(super) Arc<CertifiedKey>);

impl ResolvesServerCert for Fixed {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}
