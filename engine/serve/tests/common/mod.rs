//! A server of a stub, and a client that can misbehave.

#![allow(dead_code, reason = "each test binary uses some of it")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use paraloom_serve::{
    About, Checked, Failure, Mapped, Mapper, Mark, Parameter, ParameterSet, Parameters, ServeError,
    Server, Settings,
};

fn input() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_id", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("times", DataType::Int64, true),
    ]))
}

fn output() -> SchemaRef {
    let fields = input().fields().iter().cloned().collect::<Vec<_>>();
    let loud = Arc::new(Field::new("loud", DataType::Utf8, true));
    Arc::new(Schema::new([fields, vec![loud]].concat()))
}

/// `mark`: what is written behind every text.
fn parameters() -> ParameterSet {
    let mark = Parameter {
        name: "mark".to_owned(),
        nodes: vec!["loud".to_owned()],
        setting: "mark".to_owned(),
        schema: serde_json::json!({"type": "string", "default": ""}),
    };
    ParameterSet::new(vec![mark], |sent| {
        match sent.iter().find(|(name, value)| *name != "mark" || !value.is_string()) {
            Some((name, _)) => Err(format!("there is no parameter {name:?}; there are mark")),
            None => Ok(Checked { parameters: sent.clone(), factor: 1 }),
        }
    })
}

/// Writes every text in capitals, `times` times. Fails at the text "fail", and knows no origins at "who".
struct Loud {
    /// What is written behind every text that has no mark of its own.
    mark: &'static str,
    /// Rows of every batch that was begun.
    batches: Arc<Mutex<Vec<usize>>>,
    /// Something is received before each batch, if there is one.
    gate: Option<Receiver<()>>,
}

impl Mapper for Loud {
    fn map(&mut self, rows: &RecordBatch, parameters: &Parameters) -> Result<Vec<Mapped>, Failure> {
        let failed = |error: arrow::error::ArrowError| Failure::Failed(error.to_string());
        self.batches.lock().expect("nobody panics").push(rows.num_rows());
        if let Some(gate) = &self.gate {
            gate.recv().map_err(|error| Failure::Failed(error.to_string()))?;
        }
        let texts = rows["text"].as_string::<i32>();
        let times = rows["times"].as_any().downcast_ref::<Int64Array>().expect("numbers");
        if texts.iter().flatten().any(|text| text == "fail") {
            let what = "node `loud`: it cannot be said louder";
            return Err(Failure::Failed(what.to_owned()));
        }
        let times = |row: usize| if times.is_valid(row) { times.value(row) as usize } else { 1 };
        let origins: Vec<usize> =
            (0..rows.num_rows()).flat_map(|row| std::iter::repeat_n(row, times(row))).collect();
        let indices: UInt32Array = origins.iter().map(|row| *row as u32).collect();
        let taken = take_record_batch(rows, &indices).map_err(failed)?;
        let mark = parameters.get("mark").and_then(|mark| mark.as_str()).unwrap_or(self.mark);
        if mark == "?" {
            return Err(Failure::Refused("node `loud`: it asks nothing".to_owned()));
        }
        let loud: StringArray = taken["text"]
            .as_string::<i32>()
            .iter()
            .map(|text| text.map(|text| text.to_uppercase() + mark))
            .collect();
        let mut columns: Vec<ArrayRef> = taken.columns().to_vec();
        columns.push(Arc::new(loud));
        let rows_ = RecordBatch::try_new(output(), columns).map_err(failed)?;
        let is_known = !texts.iter().flatten().any(|text| text == "who");
        // Some texts are too long for it.
        let is_cut = |row: &usize| texts.is_valid(*row) && texts.value(*row).starts_with("long");
        // How many tokens a text has is known but for one.
        let count = |row: &usize| match texts.is_valid(*row).then(|| texts.value(*row)) {
            Some("untold") => None,
            text => Some(text.unwrap_or_default().split(' ').count() as u64 + 1),
        };
        let mark = |row: &usize| Mark {
            is_cut: is_cut(row),
            is_unfinished: false,
            tokens_read: count(row),
            tokens_written: count(row).map(|count| count * 10),
        };
        let marks = Some(origins.iter().map(mark).collect());
        Ok(vec![Mapped { rows: rows_, origins: is_known.then_some(origins), marks }])
    }
}

/// A server that runs until it is dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) batches: Arc<Mutex<Vec<usize>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), ServeError>>>,
}

pub(crate) fn settings() -> Settings {
    Settings {
        bind: SocketAddr::from(([127, 0, 0, 1], 0)),
        queue: 256,
        timeout: Duration::from_secs(20),
        drain: Duration::from_secs(20),
        ..Settings::default()
    }
}

/// Serves the stub.
pub(crate) fn serve(settings: Settings) -> Running {
    start(settings, &ONE, None)
}

/// Serves it under several names; all but the first have a mark.
pub(crate) fn serve_several(settings: Settings) -> Running {
    start(settings, &SEVERAL, None)
}

/// Names and marks of models.
const ONE: [(&str, &str); 1] = [("loud", "")];
const SEVERAL: [(&str, &str); 3] = [("loud", ""), ("louder", "!"), ("loudest", "!!")];

/// Serves the stub, which waits for something to be sent before each batch.
pub(crate) fn serve_gated(settings: Settings) -> (Running, Sender<()>) {
    let (open, gate) = channel();
    (start(settings, &ONE, Some(gate)), open)
}

/// Several models, of which the first waits for something to be sent before each batch.
pub(crate) fn serve_several_gated(settings: Settings) -> (Running, Sender<()>) {
    let (open, gate) = channel();
    (start(settings, &SEVERAL, Some(gate)), open)
}

fn start(
    settings: Settings,
    names: &[(&str, &'static str)],
    mut gate: Option<Receiver<()>>,
) -> Running {
    let server = Server::bind(settings).expect("a port is free");
    let (address, stop) = (server.address(), Arc::<AtomicBool>::default());
    let batches = Arc::<Mutex<Vec<usize>>>::default();
    let about = |name: &str| About {
        name: name.to_owned(),
        title: "stub".to_owned(),
        version: "1.2.3".to_owned(),
        nodes: vec!["quiet".to_owned(), "loud".to_owned()],
        input: input(),
        outputs: vec![("rows".to_owned(), output())],
        hints: paraloom_serve::Hints::default(),
        batch_invariant: true,
        parameters: parameters(),
    };
    let stopped = Arc::clone(&stop);
    let model = |(name, mark): &(&str, &'static str)| {
        let batches = Arc::clone(&batches);
        let mapper = Loud { mark, batches, gate: gate.take() };
        (about(name), Box::new(mapper) as Box<dyn Mapper + Send>)
    };
    let models: Vec<_> = names.iter().map(model).collect();
    let run = move || server.run(models, &stopped, &AtomicBool::new(false));
    Running { address, batches, stop, thread: Some(std::thread::spawn(run)) }
}

impl Running {
    /// What comes back for these bytes, until the server closes the connection.
    pub(crate) fn send(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect();
        // A server may have said no and closed before it has read everything.
        let _ = stream.write_all(request.as_ref());
        read(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a time");
        stream
    }

    /// Status and body of a `GET`.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        parse(
            &self.send(format!(
                "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            )),
        )
    }

    /// Status and body of a `POST` to `/v1/rows`.
    pub(crate) fn rows(&self, body: &str) -> (u16, String) {
        parse(&self.send(post(body)))
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// How it ended.
    pub(crate) fn end(mut self) -> Result<(), ServeError> {
        self.stop();
        self.thread.take().expect("it runs").join().expect("it does not panic")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop();
    }
}

pub(crate) fn read(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    // What came before a reset counts.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// A request for rows.
pub(crate) fn post(body: &str) -> String {
    format!(
        "POST /v1/rows HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Status and body of an answer; 0 if there is none.
pub(crate) fn parse(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    (status, body.to_owned())
}
