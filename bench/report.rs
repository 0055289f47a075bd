//! The results, as tables and as JSON.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde_json::{Value, json};

use crate::expiry::Expiry;
use crate::latency::Times;
use crate::usage::Measured;

/// A measurement with several runs.
pub struct Series {
    /// The name in the output.
    pub name: String,
    /// Number of records read; for `COPY`, of those that the rows come from.
    pub records: u64,
    /// Number of rows of `public` that the records make.
    pub rows: u64,
    /// The runs.
    pub runs: Vec<Measured>,
    /// Records per second of the `COPY` to compare with.
    pub ceiling: Option<f64>,
}

impl Series {
    /// The median of records per second.
    pub fn rate(&self) -> f64 {
        median(&self.rates())
    }

    fn rates(&self) -> Vec<f64> {
        self.of(|run| self.records as f64 / run.seconds)
    }

    fn of(&self, value: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.runs.iter().map(value).collect()
    }

    /// The run with the median time.
    fn typical(&self) -> &Measured {
        let mut runs: Vec<&Measured> = self.runs.iter().collect();
        runs.sort_by(|one, other| one.seconds.total_cmp(&other.seconds));
        runs[(runs.len() - 1) / 2]
    }
}

/// All results of one run of the benchmark.
#[derive(Default)]
pub struct Report {
    about: Vec<(String, Value)>,
    sections: Vec<Value>,
}

impl Report {
    /// Adds a property of the run.
    pub fn about(&mut self, name: &str, value: impl Into<Value>) {
        let value = value.into();
        println!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
        self.about.push((name.to_owned(), value));
    }

    /// Prints loads and their bottlenecks.
    pub fn loads(&mut self, title: &str, series: &[Series]) {
        let mut table = table(&[
            "",
            "records/s",
            "rows/s",
            "of COPY",
            "WAL B/row",
            "disk B/row",
            "CPU s per million records: consumer",
            "PostgreSQL",
            "broker",
            "memory peak MiB",
            "at the end",
        ]);
        for one in series {
            let millions = one.records as f64 / 1e6;
            let each = |value: &dyn Fn(&Measured) -> f64| one.of(|run| value(run) / millions);
            let consumes = one.runs.iter().any(|run| run.peak_memory_mib > 0.0);
            let if_consumes = |text: String| if consumes { text } else { "-".to_owned() };
            table.add_row(vec![
                one.name.clone(),
                spread(&one.rates(), 0),
                number(one.rate() * one.rows as f64 / one.records as f64, 0),
                one.ceiling.map_or_else(|| "1".to_owned(), |ceiling| number(one.rate() / ceiling, 2)),
                spread(&one.of(|run| run.wal_bytes / one.rows as f64), 0),
                spread(&one.of(|run| run.disk_bytes / one.rows as f64), 0),
                if_consumes(spread(&each(&|run| run.consumer_cpu_seconds), 1)),
                spread(&each(&|run| run.postgres_cpu_seconds), 1),
                if_consumes(spread(&each(&|run| run.broker_cpu_seconds), 1)),
                if_consumes(spread(&one.of(|run| run.peak_memory_mib), 0)),
                if_consumes(spread(&one.of(|run| run.memory_mib), 0)),
            ]);
        }
        println!(
            "\n## {title}\n\n{table}\n\nWhat limits it (of the run with the median time; shares of its time):\n"
        );
        for one in series {
            let run = one.typical();
            let share = |(name, share): (&String, &f64)| format!("{name} {:.0} %", share * 100.0);
            let mut states: Vec<_> = run.backends.iter().filter(|(_, share)| **share >= 0.01).collect();
            states.sort_by(|one, other| other.1.total_cmp(one.1));
            println!(
                "- {}: CPU: {}. In transactions: {}; none open {:.0} %. Statements: {}. WAL {:.1} MiB/s.",
                one.name,
                run.busiest.iter().map(|(name, of)| share((name, of))).collect::<Vec<_>>().join(", "),
                states.into_iter().map(share).collect::<Vec<_>>().join(", "),
                run.no_transaction * 100.0,
                run.statements.iter().map(|(name, of)| share((name, of))).collect::<Vec<_>>().join(", "),
                run.wal_bytes / run.seconds / 1_048_576.0,
            );
        }
        let json = |one: &Series| {
            json!({"name": one.name, "records": one.records, "rows": one.rows, "records_per_second": summary(&one.rates()),
                   "of_copy": one.ceiling.map(|ceiling| one.rate() / ceiling), "runs": one.runs})
        };
        self.sections.push(json!({"title": title, "series": series.iter().map(json).collect::<Vec<_>>()}));
    }

    /// Prints times: name, runs.
    pub fn times(&mut self, title: &str, note: &str, series: &[(String, Vec<Times>)]) {
        let mut table = table(&[
            "",
            "samples",
            "p50 ms",
            "p99 ms",
            "p99.9 ms",
            "longest ms",
            "resolution ms",
            "CPU %: daemon",
            "PostgreSQL",
            "memory MiB",
        ]);
        for (name, runs) in series {
            let samples = runs.first().map_or(0, |run| run.samples);
            let of = |value: fn(&Times) -> f64| spread(&runs.iter().map(value).collect::<Vec<_>>(), 2);
            let cost = |value: fn(&Measured) -> f64, digits| {
                let costs: Vec<f64> = runs.iter().filter_map(|run| run.cost.as_ref()).map(value).collect();
                if costs.is_empty() { "-".to_owned() } else { spread(&costs, digits) }
            };
            let enough = |least: usize, text: String| if samples >= least { text } else { "-".to_owned() };
            table.add_row(vec![
                name.clone(),
                format!("{} x {samples}", runs.len()),
                of(|run| run.p50),
                enough(100, of(|run| run.p99)),
                enough(1000, of(|run| run.p999)),
                of(|run| run.longest),
                if runs.iter().all(|run| run.resolution == 0.0) {
                    "-".to_owned()
                } else {
                    of(|run| run.resolution)
                },
                cost(|cost| cost.consumer_cpu_seconds / cost.seconds * 100.0, 1),
                cost(|cost| cost.postgres_cpu_seconds / cost.seconds * 100.0, 1),
                cost(|cost| cost.memory_mib, 0),
            ]);
        }
        println!("\n## {title}\n\n{note}\n\n{table}");
        let json = |(name, runs): &(String, Vec<Times>)| json!({"name": name, "runs": runs});
        self.sections.push(json!({"title": title, "series": series.iter().map(json).collect::<Vec<_>>()}));
    }

    /// Prints the expiry.
    pub fn expiry(&mut self, title: &str, runs: &[Expiry]) {
        let of =
            |value: fn(&Expiry) -> f64, digits| spread(&runs.iter().map(value).collect::<Vec<_>>(), digits);
        let mut table = table(&["", ""]);
        for (name, text) in [
            ("rows expired a second", of(|run| run.rows as f64 / run.expired_seconds, 0)),
            ("rows expired and published a second", of(|run| run.rows as f64 / run.published_seconds, 0)),
            ("WAL B/row", of(|run| run.wal_bytes / run.rows as f64, 0)),
            ("consuming beside it, before: p50 ms", of(|run| run.before.p50, 2)),
            ("consuming beside it, before: p99 ms", of(|run| run.before.p99, 2)),
            ("consuming beside it, meanwhile: p50 ms", of(|run| run.meanwhile.p50, 2)),
            ("consuming beside it, meanwhile: p99 ms", of(|run| run.meanwhile.p99, 2)),
        ] {
            table.add_row(vec![name.to_owned(), text]);
        }
        println!("\n## {title}\n\n{table}");
        self.sections.push(json!({"title": title, "runs": runs}));
    }

    /// Prints a table of its own.
    pub fn table(&mut self, title: &str, note: &str, header: &[&str], rows: Vec<Vec<String>>, json: Value) {
        let mut table = table(header);
        table.add_rows(rows);
        println!("\n## {title}\n\n{note}\n\n{table}");
        self.sections.push(json!({"title": title, "rows": json}));
    }

    /// Notes a measurement that was left out.
    pub fn left_out(&mut self, what: &str, why: &str) {
        println!("\nNOT MEASURED: {what}: {why}");
        self.sections.push(json!({"title": what, "left_out": why}));
    }

    /// All results as JSON.
    pub fn json(&self) -> Value {
        let about: serde_json::Map<String, Value> = self.about.iter().cloned().collect();
        json!({"about": about, "sections": self.sections})
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// The median; of an even number, the lower of the middle two.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len().max(1) - 1) / 2).copied().unwrap_or(f64::NAN)
}

fn least_and_most(values: &[f64]) -> (f64, f64) {
    (
        values.iter().copied().fold(f64::INFINITY, f64::min),
        values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    )
}

fn summary(values: &[f64]) -> Value {
    let (min, max) = least_and_most(values);
    json!({"median": median(values), "min": min, "max": max})
}

/// `median (least..most)`
pub fn spread(values: &[f64], digits: usize) -> String {
    let (min, max) = least_and_most(values);
    match values.len() {
        0 | 1 => number(median(values), digits),
        _ => format!("{} ({}..{})", number(median(values), digits), number(min, digits), number(max, digits)),
    }
}

/// A number with commas between thousands.
pub fn number(value: f64, digits: usize) -> String {
    let text = format!("{value:.digits$}");
    let (whole, rest) = text
        .split_once('.')
        .map_or((text.as_str(), String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index) % 3 == 0 && grouped != "-" {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &rest
}
