//! Who answers behind a Service's address, asked again and again from the client's namespace.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use lb_tests::world::Netns;

use super::population;

const ANSWER_LIMIT: Duration = Duration::from_millis(50);
/// Between two questions: at least this, and at most a hundredth of the time that was waited.
const GAP: Duration = Duration::from_micros(100);

struct Question {
    address: SocketAddr,
    names: BTreeSet<String>,
    deadline: Instant,
}

/// A thread in the client's namespace. It must end before the world does.
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
                // Who asked waits for the answer.
                said.send(first_answer(&question)).ok();
            }
        });
        Self { questions: Some(questions), answers, thread: Some(thread) }
    }

    /// Begins to ask until one of these answers; then [`wait`](Self::wait).
    pub fn ask(&self, ip: Ipv4Addr, names: &[&str], limit: Duration) {
        let names = names.iter().map(ToString::to_string).collect();
        let address = SocketAddr::new(ip.into(), population::PORT);
        let question = Question { address, names, deadline: Instant::now() + limit };
        self.questions.as_ref().expect("it is there until the end").send(question).ok();
    }

    /// When the first packet was sent that one of these answered.
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

/// The name that a server answers with. Each time another source port: a flow of its own.
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
