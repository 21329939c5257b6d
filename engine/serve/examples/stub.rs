//! A server of a function that takes its time and computes nothing, for measurements of the server itself:
//!
//!     cargo run --release --example stub -- 127.0.0.1:8080 3000
//!
//! The second argument is the time that a row takes, in microseconds, the third how many models there are.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use paraloom_serve::{About, Failure, Mapped, Mapper, ParameterSet, Parameters, Server, Settings};

struct Slow(Duration);

impl Mapper for Slow {
    fn map(&mut self, rows: &RecordBatch, _: &Parameters) -> Result<Vec<Mapped>, Failure> {
        let count = rows.num_rows();
        std::thread::sleep(self.0 * count as u32);
        let origins = Some((0..count).collect());
        Ok(vec![Mapped { rows: rows.clone(), origins, marks: None }])
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let bind = args.next().unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse()?;
    let micros = args.next().unwrap_or_else(|| "3000".to_owned()).parse()?;
    let field = |name| Field::new(name, DataType::Utf8, false);
    let schema = Arc::new(Schema::new(vec![field("_id"), field("source")]));
    let models = args.next().unwrap_or_else(|| "1".to_owned()).parse::<usize>()?;
    let about = |number: usize| About {
        name: if number == 0 { "stub".to_owned() } else { format!("stub{number}") },
        title: "stub".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        nodes: vec!["stub".to_owned()],
        input: Arc::clone(&schema),
        outputs: vec![("rows".to_owned(), Arc::clone(&schema))],
        hints: paraloom_serve::Hints::default(),
        batch_invariant: true,
        parameters: ParameterSet::default(),
    };
    let server = Server::bind(Settings { bind, ..Settings::default() })?;
    let mapper = || Box::new(Slow(Duration::from_micros(micros))) as Box<dyn Mapper + Send>;
    let models = (0..models).map(|number| (about(number), mapper())).collect();
    Ok(server.run(models, &AtomicBool::new(false), &AtomicBool::new(false))?)
}
