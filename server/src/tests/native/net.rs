//! Namespaces with a way out, in the real kernel, with the real firewall and beside a real dockerd. For root.
//!
//! The world is a namespace of its own behind this host, with a gateway before it, so that no test needs to reach
//! anything that is not on this machine.

use crate::worker::native::net::{Egress, Lease, SYSCTLS, hosts, resolv_conf};
use nix::sched::{CloneFlags, setns};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::Duration;

/// What is refused is so at once; a silence as long as this is one too.
const PATIENCE: Duration = Duration::from_secs(2);

fn sh(command: &str) -> String {
    let output = Command::new("sh").args(["-c", command]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Does this in the namespace.
fn inside<T: Send>(namespace: impl AsFd + Send + Sync, act: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            act()
        });
        thread.join().unwrap()
    })
}

fn connect(from: &Lease, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
    let to = to.into();
    inside(from, || TcpStream::connect_timeout(&to, PATIENCE))
}

/// A namespace behind the host; its 198.51.100.1 is reached over a gateway, where a server listens.
struct World {
    name: String,
    link: String,
    namespace: OwnedFd,
    server: TcpListener,
    net: Ipv4Addr,
}

impl World {
    /// Several tests have one each; the nth lies in 198.51.100.(16 n).
    fn new(nth: u8) -> World {
        let (name, link) = (format!("bettertest-world{nth}"), format!("btw{nth}"));
        let _ = Command::new("sh").args(["-c", &format!("ip netns del {name}; ip link del {link}")]).output();
        let (near, far) = (format!("203.0.113.{}", nth * 4 + 1), format!("203.0.113.{}", nth * 4 + 2));
        let net = Ipv4Addr::new(198, 51, 100, nth * 16);
        let server = Ipv4Addr::from(u32::from(net) + 1);
        sh(&format!(
            "ip netns add {name} && ip link add {link} type veth peer name eth0 netns {name} && ip addr add {near}/30 dev {link} && ip link set {link} up && \
             ip -n {name} link set lo up && ip -n {name} addr add {far}/30 dev eth0 && ip -n {name} link set eth0 up && ip -n {name} route add default via {near} && \
             ip -n {name} addr add {server}/32 dev lo && ip route add {net}/28 via {far}"
        ));
        let namespace = OwnedFd::from(std::fs::File::open(format!("/var/run/netns/{name}")).unwrap());
        let server = inside(&namespace, || TcpListener::bind((server, 80)).unwrap());
        World { name, link, namespace, server, net }
    }

    fn address(&self) -> SocketAddr {
        self.server.local_addr().unwrap()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        sh(&format!("ip link del {}; ip netns del {}", self.link, self.name));
    }
}

/// An instance of this test's own, of which nothing is left however the test ends.
struct Instance(Egress);

impl Instance {
    async fn new(name: &str) -> Instance {
        let egress = Egress::new(name);
        egress.remove().await.unwrap();
        Instance(egress)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let egress = self.0.clone();
        let removed =
            std::thread::spawn(move || tokio::runtime::Runtime::new().unwrap().block_on(egress.remove()));
        removed.join().unwrap().unwrap();
    }
}

async fn full(egress: &Egress) {
    while egress.kept_ready().len() < 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_step_reaches_the_world_and_no_more() {
    let world = World::new(1);
    let instance = Instance::new("test-walls").await;
    let (one, two) = (instance.0.take().await.unwrap(), instance.0.take().await.unwrap());
    assert_ne!(one.address(), two.address());

    let stream = connect(&one, world.address()).unwrap();
    let (_, seen) = inside(&world.namespace, || world.server.accept().unwrap());
    assert_ne!(seen.ip(), one.address(), "its own address is not seen outside");
    drop(stream);

    // Every address of this host, where something listens on all of them.
    let host = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = host.local_addr().unwrap().port();
    let addresses = sh("ip -4 -o addr show | awk '{print $4}' | cut -d/ -f1");
    let mut refused = 0;
    for address in addresses.lines().filter(|address| !address.starts_with("127.")) {
        let address: Ipv4Addr = address.parse().unwrap();
        // Other tests' bridges come and go.
        if TcpStream::connect_timeout(&(address, port).into(), PATIENCE).is_err() {
            continue;
        }
        let Err(error) = connect(&one, SocketAddrV4::new(address, port)) else {
            panic!("{address} of this host is reached")
        };
        // Not swallowed.
        refused += usize::from(error.kind() == io::ErrorKind::HostUnreachable);
    }
    // Its own bridge, the world's near end, docker0 and what leads out.
    assert!(refused >= 4, "{refused} of {addresses}");
    let error = connect(&one, SocketAddrV4::new(Ipv4Addr::new(169, 254, 169, 254), 80)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "{error}");

    // A neighbour that listens.
    let neighbour = inside(&two, || TcpListener::bind("0.0.0.0:80").unwrap());
    let at = SocketAddrV4::new(two.address(), 80);
    assert!(connect(&two, at).is_ok());
    assert!(connect(&one, at).is_err(), "a neighbour is reached");
    drop(neighbour);

    // Nobody comes in from the world either: it would have to know the way.
    let from_world =
        inside(&world.namespace, || TcpStream::connect_timeout(&at.into(), Duration::from_millis(300)));
    assert!(from_world.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_of_docker_are_not_reached() {
    let instance = Instance::new("test-docker").await;
    let step = instance.0.take().await.unwrap();
    let container = sh("docker run -d --rm -p 127.0.0.1::80 -p 41880:80 bettertest-test:1 httpd -f -p 80");
    let network = sh("docker network create -o com.docker.network.bridge.name=mine0 bettertest-mine");
    sh(&format!("docker network connect bettertest-mine {container}"));
    let found = std::panic::catch_unwind(|| {
        let addresses = sh(&format!(
            "docker inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}} {{{{end}}}}' {container}"
        ));
        assert_eq!(addresses.split_whitespace().count(), 2, "{addresses}");
        for address in addresses.split_whitespace() {
            let at: SocketAddr = format!("{address}:80").parse().unwrap();
            while TcpStream::connect(at).is_err() {}
            assert_eq!(connect(&step, at).unwrap_err().kind(), io::ErrorKind::HostUnreachable);
        }
        // By the detour over its published port.
        let host: Ipv4Addr =
            sh("ip -4 -o addr show docker0 | awk '{print $4}' | cut -d/ -f1").parse().unwrap();
        assert!(TcpStream::connect((host, 41880)).is_ok());
        assert_eq!(
            connect(&step, SocketAddrV4::new(host, 41880)).unwrap_err().kind(),
            io::ErrorKind::HostUnreachable
        );
    });
    sh(&format!("docker rm -f {container}; docker network rm {network}"));
    found.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_found_as_on_the_host() {
    let instance = Instance::new("test-names").await;
    let step = instance.0.take().await.unwrap();
    let text = resolv_conf();
    let server: Ipv4Addr =
        text.lines().find_map(|line| line.strip_prefix("nameserver ")).unwrap().parse().unwrap();
    // A question for the root's name servers: header, empty name, NS, IN.
    let question = [7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 1];
    let ask = || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((server, 53)).unwrap();
        socket.send(&question).unwrap();
        let mut answer = [0; 4096];
        socket.recv(&mut answer).map(|_| answer[..2].to_vec())
    };
    let from_host = ask();
    let from_step = inside(&step, ask);
    assert_eq!(from_host.is_ok(), from_step.is_ok(), "{from_host:?} {from_step:?}");
    if let Ok(answer) = from_step {
        assert_eq!(answer, [7, 7]);
    }
    let table = hosts("box", Some(step.address()));
    assert!(
        table.starts_with("127.0.0.1\tlocalhost\n") && table.ends_with(&format!("{}\tbox\n", step.address()))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_namespace_is_as_docker_makes_it() {
    let instance = Instance::new("test-inside").await;
    let step = instance.0.take().await.unwrap();
    inside(&step, || {
        // A server of its own on loopback, by either protocol, and no IPv6 outside.
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        TcpStream::connect(four.local_addr().unwrap()).unwrap();
        let six = TcpListener::bind("[::1]:0").unwrap();
        TcpStream::connect(six.local_addr().unwrap()).unwrap();
        let six = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        assert_eq!(six.lines().count(), 1, "{six}");
        for (path, value) in SYSCTLS {
            let is = std::fs::read_to_string(path).unwrap();
            assert_eq!(is.split_whitespace().collect::<Vec<_>>().join(" "), value, "{path}");
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_world_grows_while_a_step_runs() {
    let instance = Instance::new("test-grows").await;
    let step = instance.0.take().await.unwrap();
    let world = World::new(2);
    // The kernel tells of the route; the rules follow within their time.
    let reached = (0..100).any(|_| {
        let reached = connect(&step, world.address()).is_ok();
        if !reached {
            std::thread::sleep(Duration::from_millis(50));
        }
        reached
    });
    assert!(reached);
    // The link itself leads to nobody but a gateway: what has no gateway is a neighbour's.
    let before = sh("iptables -S");
    sh(&format!("ip route del {}/28", world.net));
    let closed = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        !sh("iptables -S").contains(&format!("-o {} -j ACCEPT", world.link))
    });
    assert!(closed && before.contains(&format!("-o {} -j ACCEPT", world.link)));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_somebody_took_away_are_put_back() {
    let world = World::new(5);
    let instance = Instance::new("test-flushed").await;
    let step = instance.0.take().await.unwrap();
    assert!(connect(&step, world.address()).is_ok());
    let of_ours = format!("{} ", &sh("printf %s test-flushed | sha256sum")[..8]);
    let ours = || sh(&format!("iptables-save -t filter | grep -- '-A .*{of_ours}'"));
    let before = ours();
    for jump in before.lines().filter(|line| line.contains(" -i ") && line.contains("BETTERTEST")) {
        sh(&format!("iptables {}", jump.replacen("-A", "-D", 1)));
    }
    assert_ne!(ours(), before);
    // The next time that the host's routes change, or later a namespace is made, all is looked at.
    sh(&format!("ip route add 198.51.100.255/32 dev {}", world.link));
    let sorted = |text: String| text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>();
    let back = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(50));
        sorted(ours()) == sorted(before.clone())
    });
    assert!(back, "{}", ours());
    assert!(connect(&step, world.address()).is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_goes_and_nothing_of_it_is_left_and_another_stays() {
    let world = World::new(3);
    let (one, two) = (Instance::new("test-one").await, Instance::new("test-two").await);
    let (_first, second) = (one.0.take().await.unwrap(), two.0.take().await.unwrap());
    full(&one.0).await;
    full(&two.0).await;

    let own = |name: &str| format!("bt{}", &sh(&format!("printf %s {name} | sha256sum"))[..8]);
    let rules = |name: &str| sh(&format!("iptables-save | grep -c '{}' || true", &own(name)[2..]));
    assert_ne!(rules("test-one"), "0");
    one.0.remove().await.unwrap();
    assert_eq!(one.0.kept_ready().len(), 0);
    assert_eq!(rules("test-one"), "0");
    assert_ne!(rules("test-two"), "0");
    assert!(connect(&second, world.address()).is_ok());

    // It can begin again.
    let again = one.0.take().await.unwrap();
    assert!(connect(&again, world.address()).is_ok());
    one.0.remove().await.unwrap();
    two.0.remove().await.unwrap();
    for name in ["test-one", "test-two"] {
        assert_eq!(rules(name), "0");
        assert_eq!(sh(&format!("ip -o link show | grep -c '{}' || true", own(name))), "0");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_steps_keep_their_addresses() {
    let world = World::new(4);
    let killed = Instance::new("test-killed").await;
    let step = killed.0.take().await.unwrap();
    full(&killed.0).await;
    // As a process that ends would: its descriptors are closed, and nothing is removed.
    killed.0.close();
    let next = Egress::new("test-killed");
    next.sweep().await.unwrap();
    assert!(connect(&step, world.address()).is_ok());
    for _ in 0..8 {
        let other = next.take().await.unwrap();
        assert_ne!(other.address(), step.address());
        assert!(connect(&other, world.address()).is_ok());
    }
    // Where nothing runs any more, it is as if it had never been.
    next.close();
    drop(step);
    let last = Egress::new("test-killed");
    let bridge = format!("bt{}", &sh("printf %s test-killed | sha256sum")[..8]);
    while sh(&format!("ip -o link show master {bridge} | wc -l")) != "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    last.sweep().await.unwrap();
    assert_eq!(sh(&format!("ip -o link show | grep -c {bridge} || true")), "0");
    assert_eq!(sh(&format!("iptables-save | grep -c {} || true", &bridge[2..])), "0");
}
