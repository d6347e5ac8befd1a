//! Flags of `serve` for what stands between senders and the node: proxies, TLS, and the limit of
//! connections of one address.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use ipnet::IpNet;

use crate::cli::{Exit, Trouble};
use crate::config::{Door, PER_ADDRESS_DEFAULT};
use crate::domain::network;
use crate::http::edge::{Certificate, Entrance, Files};

/// Number of connections that one address may be allowed.
const PER_ADDRESS: std::ops::RangeInclusive<i64> = 1..=10_240;

/// Senders behind proxies, and TLS
#[derive(Args)]
pub struct Flags {
    /// Proxies that are trusted to name their client, as a CIDR range such as 10.1.0.0/16; may be given often. The
    /// sender is then the rightmost address of X-Forwarded-For or Forwarded that is not trusted [default: no proxy]
    #[arg(long = "trust-proxy", value_name = "CIDR", value_parser = network::range)]
    #[arg(
        env = "HOOKLANE_TRUST_PROXY",
        value_delimiter = ',',
        hide_env_values = true
    )]
    trust_proxies: Vec<IpNet>,

    /// Trusted proxies begin each connection with a header of the PROXY protocol, version 1 or 2
    #[arg(long, env = "HOOKLANE_PROXY_PROTOCOL")]
    #[arg(value_parser = clap::builder::FalseyValueParser::new(), hide_env_values = true)]
    proxy_protocol: bool,

    /// Most connections of one address, and most requests at once of one sender behind a trusted proxy: 1 to 10240.
    /// This machine and trusted proxies have no such limit
    #[arg(long, value_name = "COUNT", default_value_t = PER_ADDRESS_DEFAULT)]
    #[arg(value_parser = clap::value_parser!(u16).range(PER_ADDRESS))]
    #[arg(env = "HOOKLANE_CONNECTIONS_PER_ADDRESS", hide_env_values = true)]
    connections_per_address: u16,

    /// Speak TLS at --listen with the certificate in this PEM file, its own first. It is read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    #[arg(env = "HOOKLANE_TLS_CERT", hide_env_values = true)]
    tls_cert: Option<PathBuf>,

    /// The private key of --tls-cert, a PEM file without a passphrase
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    #[arg(env = "HOOKLANE_TLS_KEY", hide_env_values = true)]
    tls_key: Option<PathBuf>,
}

impl Flags {
    /// The part of the configuration that they set.
    pub fn door(self) -> Door {
        Door {
            trusted: self.trust_proxies.into(),
            proxy_protocol: self.proxy_protocol,
            per_address_max: self.connections_per_address.into(),
            tls: self.tls_cert.zip(self.tls_key),
        }
    }
}

/// The entrance of the listener, with its certificate.
///
/// # Errors
/// The files of the certificate cannot be used; the message says what to do.
pub async fn entrance(door: &Door) -> Result<Entrance, Trouble> {
    let certificate = match door.tls.clone() {
        None => None,
        Some((certificate, key)) => {
            let loaded = Certificate::load(Files { certificate, key }).await;
            let wrong = |fault: crate::http::edge::Fault| {
                Trouble::new(Exit::Usage, "tls", fault.to_string())
            };
            Some(Arc::new(loaded.map_err(wrong)?))
        }
    };
    Ok(Entrance {
        trusted: door.trusted.clone(),
        proxy_protocol: door.proxy_protocol,
        certificate,
    })
}
