//! A wire between two processes that can be cut, stalled and silenced: a TCP proxy on a port of its own. It knows
//! nothing of what it carries.

use nix::libc;
use socket2::{SockFilter, SockRef};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of one connection. Bytes count from its beginning; down is what the server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Fine,
    /// Reset at both ends after exactly so many bytes of one way or the other.
    Cut {
        up: usize,
        down: usize,
    },
    /// From there on nothing is carried any more; both ends' kernels still hear each other's acknowledgements.
    StallDown(usize),
    StallUp(usize),
    /// From there on every packet of either end is dropped, silently.
    Vanish(usize),
}

/// Ends when dropped, with every connection.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    carrying: JoinHandle<()>,
}

struct Shared {
    target: SocketAddr,
    fate: Box<dyn Fn(usize) -> Fate + Send + Sync>,
    made: AtomicUsize,
    cuts: AtomicUsize,
    down: watch::Sender<bool>,
    /// Changes where all connections that there are vanish.
    out: watch::Sender<()>,
    vanished: Mutex<Vec<Vanished>>,
}

/// A connection that vanished: when, and the ports by which its ends are known.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vanished {
    pub(crate) at: Instant,
    pub(crate) client_port: u16,
    /// What the server's socket has on the other side.
    pub(crate) wire_port: u16,
}

impl Wire {
    /// To a server such as `http://127.0.0.1:9009`; `fate` is asked for each connection, counted from 0.
    pub(crate) async fn to(base: &str, fate: impl Fn(usize) -> Fate + Send + Sync + 'static) -> Wire {
        let target = base.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            target,
            fate: Box::new(fate),
            made: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            down: watch::Sender::new(false),
            out: watch::Sender::new(()),
            vanished: Mutex::default(),
        });
        let carrying = tokio::spawn(carry_all(listener, shared.clone()));
        Wire { address, shared, carrying }
    }

    pub(crate) fn base(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.made.load(Ordering::SeqCst)
    }

    pub(crate) fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::SeqCst)
    }

    pub(crate) fn vanished(&self) -> Vec<Vanished> {
        self.shared.vanished.lock().expect("no panic under this lock").clone()
    }

    /// The connections that there are now vanish.
    pub(crate) fn vanish(&self) {
        self.shared.out.send_replace(());
    }

    /// Every connection is reset and none is taken, for so long.
    pub(crate) async fn down_for(&self, time: Duration) {
        self.shared.down.send_replace(true);
        tokio::time::sleep(time).await;
        self.shared.down.send_replace(false);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.carrying.abort();
    }
}

async fn carry_all(listener: TcpListener, shared: Arc<Shared>) {
    let address = listener.local_addr().expect("it is bound");
    let mut listener = Some(listener);
    let mut carried = JoinSet::new();
    let mut down = shared.down.subscribe();
    loop {
        let open = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.expect("it was ours a moment ago"),
        };
        loop {
            tokio::select! {
                () = is_down(&mut down) => break,
                Some(_) = carried.join_next() => {}
                accepted = open.accept() => {
                    let (near, _) = accepted.expect("loopback");
                    let number = shared.made.fetch_add(1, Ordering::SeqCst);
                    carried.spawn(carry(near, number, shared.clone()));
                }
            }
        }
        drop(open);
        down.wait_for(|down| !*down).await.expect("the wire is there");
    }
}

async fn carry(mut near: TcpStream, number: usize, shared: Arc<Shared>) {
    let Ok(mut far) = TcpStream::connect(shared.target).await else { return reset(near) };
    let fate = (shared.fate)(number);
    let (up_limit, down_limit) = match fate {
        Fate::Fine => (usize::MAX, usize::MAX),
        Fate::Cut { up, down } => (up, down),
        Fate::StallDown(at) | Fate::Vanish(at) => (usize::MAX, at),
        Fate::StallUp(at) => (at, usize::MAX),
    };
    let (mut broken, mut out) = (shared.down.subscribe(), shared.out.subscribe());
    let (mut up, mut down) = (Way::of(up_limit), Way::of(down_limit));
    loop {
        if up.left == 0 || down.left == 0 {
            match fate {
                Fate::Cut { .. } => {
                    shared.cuts.fetch_add(1, Ordering::SeqCst);
                    break;
                }
                Fate::Vanish(_) => return vanish(&near, &far, &shared).await,
                // The other way goes on.
                Fate::StallDown(_) | Fate::StallUp(_) | Fate::Fine => {}
            }
        }
        let carried = tokio::select! {
            () = is_down(&mut broken) => break,
            Ok(()) = out.changed() => return vanish(&near, &far, &shared).await,
            read = near.read(&mut up.buffer[..up.left.min(CHUNK)]), if up.left > 0 => up.pass(read, &mut far).await,
            read = far.read(&mut down.buffer[..down.left.min(CHUNK)]), if down.left > 0 => down.pass(read, &mut near).await,
        };
        if !carried {
            return;
        }
    }
    reset(near);
    reset(far);
}

async fn is_down(down: &mut watch::Receiver<bool>) {
    // A wire that is gone carries nothing either.
    drop(down.wait_for(|down| *down).await);
}

const CHUNK: usize = 16 * 1024;

struct Way {
    buffer: Vec<u8>,
    left: usize,
}

impl Way {
    fn of(limit: usize) -> Way {
        Way { buffer: vec![0; CHUNK], left: limit }
    }

    /// False where one of the ends is over.
    async fn pass(&mut self, read: std::io::Result<usize>, to: &mut TcpStream) -> bool {
        match read {
            Ok(count) if count > 0 => {
                self.left -= count;
                to.write_all(&self.buffer[..count]).await.is_ok()
            }
            Ok(_) | Err(_) => false,
        }
    }
}

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket lingers as told");
}

/// Holds both sockets, deaf, for as long as the wire lives.
async fn vanish(near: &TcpStream, far: &TcpStream, shared: &Shared) {
    drop_all_packets(near);
    drop_all_packets(far);
    let port = |address: std::io::Result<SocketAddr>| address.expect("it is connected").port();
    let vanished = Vanished {
        at: Instant::now(),
        client_port: port(near.peer_addr()),
        wire_port: port(far.local_addr()),
    };
    shared.vanished.lock().expect("no panic under this lock").push(vanished);
    std::future::pending().await
}

/// The kernel throws away whatever arrives for this socket, before it looks at it: nothing is acknowledged, nothing
/// refused, as if the cable were out.
pub(crate) fn drop_all_packets(socket: &impl AsFd) {
    let nothing = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    SockRef::from(socket).attach_filter(&[nothing]).expect("a filter of one instruction");
}

/// Is there still a process that holds this end of a connection?
pub(crate) fn is_held(local_port: u16, other_port: u16) -> bool {
    sockets().contains(&(local_port, other_port))
}

/// How many connections of this port are held at one end or the other.
pub(crate) fn held_at(port: u16) -> usize {
    sockets().iter().filter(|(local, other)| *local == port || *other == port).count()
}

/// The ports of all connections, of this end and the other, that are established or wait to be closed.
fn sockets() -> Vec<(u16, u16)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
    let port =
        |address: &str| address.split_once(':').and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
    let row = |row: &str| {
        let mut words = row.split_whitespace().skip(1);
        let (local, other, state) = (words.next()?, words.next()?, words.next()?);
        (matches!(state, "01" | "08")).then_some((port(local)?, port(other)?))
    };
    table.lines().skip(1).filter_map(row).collect()
}

/// Numbers that look like chance and come again with the same seed.
pub(crate) struct Chance(Mutex<u64>);

impl Chance {
    pub(crate) fn of(seed: u64) -> Chance {
        Chance(Mutex::new(seed))
    }

    /// Below `limit`.
    pub(crate) fn below(&self, limit: usize) -> usize {
        let mut state = self.0.lock().expect("no panic under this lock");
        *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = *state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}
