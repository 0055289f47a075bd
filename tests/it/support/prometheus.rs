//! A real Prometheus that scrapes a daemon each second, and `promtool`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use super::processes::{Process, Signal, command, find_program, folder, free_port};
use super::wait::{SOON, eventually};

/// Why the tests with it are left out.
const MISSING: &str = "prometheus is not installed";

/// A server, until it is dropped.
pub struct Prometheus {
    address: String,
    _process: Process,
}

/// One answer of a query, or one alert: its labels and its value.
pub type Sample = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Starts a server that scrapes these addresses (`host:port`) as the job `voiceclone-events`, and evaluates these
    /// rules (the text of a file) each second. The error says why there is none.
    pub fn start(targets: &[&str], rules: &str) -> Result<Prometheus, String> {
        let program = find_program("prometheus", []).ok_or(MISSING)?;
        let (folder, address) = (folder("prometheus"), format!("127.0.0.1:{}", free_port()));
        let targets: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\nscrape_configs:\n\
             - job_name: voiceclone-events\n  static_configs: [{{targets: [{}]}}]\n",
            targets.join(", ")
        );
        std::fs::write(folder.join("prometheus.yml"), config).unwrap();
        std::fs::write(folder.join("rules.yml"), rules).unwrap();
        let log = std::fs::File::create(folder.join("log")).unwrap();
        let mut server = command(program);
        server.arg("--config.file=prometheus.yml").arg("--storage.tsdb.path=data");
        server.arg(format!("--web.listen-address={address}")).current_dir(&folder);
        server.stdout(log.try_clone().unwrap()).stderr(log);
        let process = Process::spawn(&mut server, Signal::Kill);
        let prometheus = Prometheus { address, _process: process };
        eventually(SOON, "Prometheus", || {
            prometheus.get("/-/ready", &[]).map_err(|error| {
                format!("{error}: {}", std::fs::read_to_string(folder.join("log")).unwrap_or_default())
            })
        });
        Ok(prometheus)
    }

    fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<String, String> {
        let config = ureq::Agent::config_builder().http_status_as_error(false).proxy(None);
        let agent = config.timeout_global(Some(Duration::from_secs(10))).build().new_agent();
        let mut request = agent.get(format!("http://{}{path}", self.address));
        for (name, value) in query {
            request = request.query(name, value);
        }
        let mut answer = request.call().map_err(|error| error.to_string())?;
        let body = answer.body_mut().read_to_string().map_err(|error| error.to_string())?;
        if answer.status().is_success() { Ok(body) } else { Err(body) }
    }

    /// The answer to a query; the error is Prometheus' own.
    pub fn query(&self, expression: &str) -> Result<Vec<Sample>, String> {
        let body = self.get("/api/v1/query", &[("query", expression)])?;
        let body: Value = serde_json::from_str(&body).map_err(|error| error.to_string())?;
        let result = &body["data"]["result"];
        let samples = result.as_array().ok_or_else(|| format!("no vector: {result}"))?;
        Ok(samples.iter().map(sample).collect())
    }

    /// The labels of the alerts of this name that fire.
    pub fn firing(&self, alert: &str) -> Vec<BTreeMap<String, String>> {
        let query = format!("ALERTS{{alertname='{alert}', alertstate='firing'}}");
        self.query(&query).unwrap_or_default().into_iter().map(|(labels, _)| labels).collect()
    }
}

fn sample(sample: &Value) -> Sample {
    let labels = sample["metric"].as_object().into_iter().flatten();
    let labels = labels.map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()));
    let value = sample["value"][1].as_str().and_then(|value| value.parse().ok());
    (labels.collect(), value.unwrap_or(f64::NAN))
}

/// Runs `promtool` in a folder: what it printed, as an error where it failed. The outer error says why there is none.
pub fn promtool(folder: &Path, arguments: &[&str], input: &str) -> Result<Result<String, String>, String> {
    let program = find_program("promtool", []).ok_or(MISSING)?;
    let file = super::processes::folder("promtool").join("input");
    std::fs::write(&file, input).unwrap();
    let input = std::fs::File::open(file).unwrap();
    let done = Command::new(program).args(arguments).current_dir(folder).stdin(input).output().unwrap();
    let said = [done.stdout, done.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    Ok(if done.status.success() { Ok(said) } else { Err(said) })
}
