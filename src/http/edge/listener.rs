//! Listeners: a TCP address, or a socket file that only its owner may open.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::server::TlsStream;

/// A listener on one address. Dropping it removes its socket file.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Socket {
        listener: UnixListener,
        _file: SocketFile,
    },
}

/// The other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client on the network.
    Address(SocketAddr),
    /// A client on the network, whose address a trusted proxy tells.
    Behind(IpAddr),
    /// A local user, by number: the one that runs the daemon, or root.
    User(u32),
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one.
    ///
    /// # Errors
    /// Errors of the system, with the address.
    pub async fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|error| about(&error, "cannot listen on", &address))?;
        Ok(Self(Kind::Tcp(listener)))
    }

    /// Listens on a socket file of mode 0600 at `path`, replacing one that no process listens on. Must
    /// be called inside a runtime.
    ///
    /// # Errors
    /// `PermissionDenied` if others may write to the directory; `AddrInUse` if a process listens there;
    /// `AlreadyExists` if it is another kind of file. Otherwise errors of the system, with the path.
    pub fn socket(path: &Path) -> io::Result<Self> {
        let shown = path.display();
        refuse_shared_directory(path)?;
        remove_stale(path)?;
        let listener =
            UnixListener::bind(path).map_err(|error| about(&error, "cannot listen on", &shown))?;
        let _file = SocketFile(path.to_owned());
        // Until here the file has the mode of the umask; the user of a connection accepted in between
        // is checked.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self(Kind::Socket { listener, _file }))
    }

    /// The TCP address; `None` for a socket file.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().ok(),
            Kind::Socket { .. } => None,
        }
    }

    /// The next connection. Cancel-safe: a cancelled call loses no connection.
    pub(super) async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.0 {
            Kind::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer::Address(address)))
            }
            Kind::Socket { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let user = stream.peer_cred()?.uid();
                Ok((Stream::Socket(stream), Peer::User(user)))
            }
        }
    }
}

impl Peer {
    /// The address; `None` for a local user.
    pub fn ip(self) -> Option<IpAddr> {
        match self {
            Self::Address(address) => Some(address.ip()),
            Self::Behind(ip) => Some(ip),
            Self::User(_) => None,
        }
    }

    /// The address by which connections are counted: `None` for this machine; for IPv6 the /64 network,
    /// because one host may use all of it.
    pub(super) fn counted_as(self) -> Option<IpAddr> {
        let is_near =
            matches!(self, Self::Address(address) if address.ip().to_canonical().is_loopback());
        match self.ip()?.to_canonical() {
            _ if is_near => None,
            IpAddr::V6(ip) => Some(Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into()),
            ip => Some(ip),
        }
    }

    /// True if the client may connect: over a socket file only our own user and root.
    pub(super) fn is_welcome(self) -> bool {
        match self {
            Self::Address(_) | Self::Behind(_) => true,
            Self::User(user) => user == 0 || user == rustix::process::geteuid().as_raw(),
        }
    }
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn refuse_shared_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let shown = directory.display();
    let found = std::fs::metadata(directory)
        .map_err(|error| about(&error, "cannot use directory", &shown))?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o022 == 0 {
        return Ok(());
    }
    let message = format!(
        "directory {shown} has mode {mode:04o}: others could replace the socket; make it 0700"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}

/// Removes a socket file that no process listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let shown = path.display();
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(about(&error, "cannot look at", &shown)),
        Ok(found) if !found.file_type().is_socket() => {
            let message = format!("{shown} is there and is no socket");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        Err(error) => Err(about(&error, "cannot tell who has", &shown)),
        Ok(_) => {
            let message = format!("another daemon listens on {shown}");
            Err(io::Error::new(io::ErrorKind::AddrInUse, message))
        }
    }
}

fn about(error: &io::Error, what: &str, which: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(error.kind(), format!("{what} {which}: {error}"))
}

/// Byte stream of a TCP or socket connection.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Socket(UnixStream),
}

impl Stream {
    /// Writes as much as fits without waiting; used when a connection is turned away.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Socket(stream) => stream.try_write(bytes),
            // TLS cannot promise to write without waiting.
            Self::Tls(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

/// Calls a method on any kind of stream.
macro_rules! on_each {
    ($stream:expr, $call:ident, $($argument:expr),*) => {
        match $stream.get_mut() {
            Stream::Tcp(stream) => Pin::new(stream).$call($($argument),*),
            Stream::Tls(stream) => Pin::new(stream.as_mut()).$call($($argument),*),
            Stream::Socket(stream) => Pin::new(stream).$call($($argument),*),
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        on_each!(self, poll_read, cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, poll_write, cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_each!(self, poll_write_vectored, cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, poll_flush, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_each!(self, poll_shutdown, cx)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn private_directory() -> tempfile::TempDir {
        tempfile::Builder::new()
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir()
            .unwrap()
    }

    #[tokio::test]
    async fn a_socket_is_open_to_its_owner_only_and_goes_with_its_listener() {
        let directory = private_directory();
        let path = directory.path().join("hooklane.sock");
        let listener = Listener::socket(&path).unwrap();
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let _client = UnixStream::connect(&path).await.unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer, Peer::User(rustix::process::geteuid().as_raw()));
        assert!(peer.is_welcome());
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_a_live_one_and_other_files_are_not() {
        let directory = private_directory();
        let path = directory.path().join("hooklane.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "left behind as by a crash");
        let listener = Listener::socket(&path).unwrap();
        let second = Listener::socket(&path).unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        std::fs::write(&path, "precious").unwrap();
        let other = Listener::socket(&path).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_directory_that_others_may_write_to_is_refused() {
        let directory = private_directory();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o770)).unwrap();
        let error = Listener::socket(&directory.path().join("hooklane.sock")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("0770"), "{error}");
    }

    #[test]
    fn strangers_over_a_socket_are_not_welcome() {
        assert!(Peer::User(0).is_welcome());
        assert!(!Peer::User(4_000_000_000).is_welcome());
    }

    #[test]
    fn addresses_are_counted_by_host() {
        for (address, counted_as) in [
            ("127.0.0.1:1", None),
            ("127.8.8.8:1", None),
            ("[::1]:1", None),
            ("[::ffff:127.0.0.1]:1", None),
            ("203.0.113.9:1", Some("203.0.113.9")),
            ("[::ffff:203.0.113.9]:1", Some("203.0.113.9")),
            ("[2001:db8:1:2:3:4:5:6]:1", Some("2001:db8:1:2::")),
        ] {
            let peer = Peer::Address(address.parse().unwrap());
            assert_eq!(
                peer.counted_as(),
                counted_as.map(|ip| ip.parse().unwrap()),
                "{address}"
            );
        }
        assert_eq!(Peer::User(0).counted_as(), None);
        // The proxy of such a client may be on another machine.
        let near = "127.0.0.1".parse().unwrap();
        assert_eq!(Peer::Behind(near).counted_as(), Some(near));
    }
}
