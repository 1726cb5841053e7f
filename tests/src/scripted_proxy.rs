//! A proxy that leads out of a company's network, with the faults that such proxies have.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::http1::read_head;

/// What the proxy does with a CONNECT request.
#[derive(Clone)]
pub enum Behaviour {
    /// Leads where it is asked to.
    Lead,
    /// Takes the request and says nothing.
    Hang,
    /// Takes the request and closes.
    Die,
    /// Answers this, bytes of HTTP, and closes.
    Answer(String),
    /// Leads there, and takes `Upgrade` out of the request that comes then.
    StripUpgrade,
    /// Plays the host itself: answers the request that comes then with 200 and a page.
    AnswerInstead,
    /// Leads there, and keeps back all that the host sends after the head of its first answer.
    HoldBack,
    /// Leads there, and closes both ends once the host has sent something after the head of its first answer.
    Cut,
    /// Leads there, and closes both ends after this time, whatever passes.
    CutAfter(Duration),
    /// Opens TLS itself, as an inspecting proxy does.
    OpenTls(TlsAcceptor),
}

/// A running proxy; connections that were led through it see no change of its behaviour.
pub struct ScriptedProxy {
    address: SocketAddr,
    behaviour: watch::Sender<Behaviour>,
    asked: watch::Receiver<Vec<String>>,
    _tasks: JoinSet<()>,
}

impl ScriptedProxy {
    /// A proxy that begins with this behaviour.
    pub async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let behaviour = watch::Sender::new(behaviour);
        let (ask, asked) = watch::channel(Vec::new());
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, behaviour.clone(), Arc::new(ask)));
        Self {
            address,
            behaviour,
            asked,
            _tasks: tasks,
        }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does otherwise from the next connection on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }

    /// The hosts and ports that it was asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.borrow().clone()
    }
}

async fn accept(
    listener: TcpListener,
    behaviour: watch::Sender<Behaviour>,
    ask: Arc<watch::Sender<Vec<String>>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let behaviour = behaviour.borrow().clone();
        let ask = Arc::clone(&ask);
        connections.spawn(async move {
            // Whatever breaks here, the agent sees it.
            drop(serve(client, behaviour, &ask).await);
        });
    }
}

async fn serve(
    client: TcpStream,
    behaviour: Behaviour,
    ask: &watch::Sender<Vec<String>>,
) -> io::Result<()> {
    let mut client = BufReader::new(client);
    let Some(head) = read_head(&mut client).await? else {
        return Ok(());
    };
    let to = head.target();
    ask.send_modify(|asked| asked.push(to.clone()));
    match &behaviour {
        Behaviour::Hang => {
            client.read_u8().await?;
            return Ok(());
        }
        Behaviour::Die => return Ok(()),
        Behaviour::Answer(answer) => return client.write_all(answer.as_bytes()).await,
        _ => {
            client
                .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
                .await?
        }
    }
    if let Behaviour::OpenTls(acceptor) = &behaviour {
        let mut tls = acceptor.accept(client).await?;
        tls.read_u8().await?;
        return Ok(());
    }
    // Every host is this machine, whatever its name.
    let port: u16 = to
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .unwrap();
    let mut host = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    match behaviour {
        Behaviour::StripUpgrade => {
            let Some(head) = read_head(&mut client).await? else {
                return Ok(());
            };
            let text = String::from_utf8_lossy(head.bytes()).into_owned();
            let kept = text
                .split_inclusive("\r\n")
                .filter(|line| !line.to_ascii_lowercase().starts_with("upgrade:"));
            host.write_all(kept.collect::<String>().as_bytes()).await?;
        }
        Behaviour::AnswerInstead => {
            read_head(&mut client).await?;
            let page = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nwelcome";
            return client.write_all(page.as_bytes()).await;
        }
        Behaviour::HoldBack | Behaviour::Cut => {
            let Some(head) = read_head(&mut client).await? else {
                return Ok(());
            };
            host.write_all(head.bytes()).await?;
            if let Some(answer) = read_head(&mut host).await? {
                client.write_all(answer.bytes()).await?;
            }
            if matches!(behaviour, Behaviour::Cut) {
                host.read_u8().await?;
            } else {
                tokio::io::copy(&mut client, &mut host).await?;
            }
            return Ok(());
        }
        Behaviour::CutAfter(limit) => {
            let copying = copy_bidirectional(&mut client, &mut host);
            // That the time is over is what was wanted.
            drop(tokio::time::timeout(limit, copying).await);
            return Ok(());
        }
        _ => {}
    }
    copy_bidirectional(&mut client, &mut host).await?;
    Ok(())
}
