//! Finds out which server answers at a Service's address, by repeated requests from the client's namespace.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lb_tests::world::Netns;

use super::population;

const ANSWER_LIMIT: Duration = Duration::from_millis(50);
/// The least pause between two requests. The pause grows to a hundredth of the time waited.
const GAP: Duration = Duration::from_micros(100);

struct Question {
    address: SocketAddr,
    names: BTreeSet<String>,
    deadline: Instant,
}

/// A thread in the client's namespace. It must end before the world.
pub struct Probe {
    questions: Option<mpsc::Sender<Question>>,
    answers: mpsc::Receiver<Result<Instant>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    pub fn start(netns: &Netns) -> Self {
        let (questions, asked) = mpsc::channel::<Question>();
        let (said, answers) = mpsc::channel();
        let thread = netns.spawn(move || {
            for question in asked {
                // The sender of the question waits for the answer.
                said.send(first_answer(&question)).ok();
            }
        });
        Self { questions: Some(questions), answers, thread: Some(thread) }
    }

    /// Begins to send requests until one of these servers answers; then call [`wait`](Self::wait).
    pub fn ask(&self, ip: Ipv4Addr, names: &[&str], limit: Duration) {
        let names = names.iter().map(ToString::to_string).collect();
        let address = SocketAddr::new(ip.into(), population::PORT);
        let question = Question { address, names, deadline: Instant::now() + limit };
        self.questions.as_ref().expect("only drop takes the sender").send(question).ok();
    }

    /// When the first packet was sent that one of these servers answered.
    pub fn wait(&self) -> Result<Instant> {
        self.answers.recv().context("the probe's thread ended")?
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        drop(self.questions.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn first_answer(question: &Question) -> Result<Instant> {
    let began = Instant::now();
    loop {
        let sent = Instant::now();
        if ask(question.address).is_ok_and(|name| question.names.contains(&name)) {
            return Ok(sent);
        }
        if sent > question.deadline {
            bail!("{} was not answered by {:?} in time", question.address, question.names);
        }
        std::thread::sleep(GAP.max(began.elapsed() / 100));
    }
}

/// The name with which a server answers. Each request has a new source port, and thus its own flow.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    socket.connect(address)?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let len = socket.recv(&mut buffer)?;
    let text = String::from_utf8_lossy(&buffer[..len]);
    Ok(text.split(' ').next().unwrap_or_default().to_owned())
}
