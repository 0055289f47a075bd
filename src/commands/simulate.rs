//! `simulate`: publishes the traffic of a plausible service.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use anyhow::bail;
use chrono::Utc;
use comfy_table::Table;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::publish::require_topics;
use crate::cli::Usage;
use crate::config::Settings;
use crate::event::Time;
use crate::kafka::send::Sender;
use crate::output::{self, print, say};
use crate::record::{Outgoing, Topic};
use crate::traffic::{Scenario, Sent, traffic, traffic_over_days};

/// Default number of calls.
const CALLS: u64 = 1000;
/// Default number of calls per day with `--since`.
const CALLS_A_DAY: i64 = 500;
const HOUR_MS: i64 = 3_600_000;
/// Maximum number of days with `--since`.
const MAX_DAYS: i64 = 3660;
/// Maximum duration of an ordinary call, in milliseconds.
const MAX_CALL_MS: i64 = 1_200_000;
/// Maximum number of records sent together.
const CHUNK: usize = 1000;
/// Time between two sends with `--rate`.
const TICK: Duration = Duration::from_millis(100);
/// Mean time between two calls without a rate, in milliseconds.
const SPACING_MS: i64 = 1000;
/// Maximum time that calls without a rate span, in milliseconds: the retention of a topic might delete older records.
const SPAN_MS: i64 = 86_400_000;
/// Approximate duration of the last call, in milliseconds.
const LAST_CALL_MS: i64 = 300_000;
/// Pauses before the retries of a failed send.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// Time between two lines of progress where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// The options of `simulate`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SimulateOptions {
    /// Number of calls; `None` for the default.
    pub calls: Option<u64>,
    /// Calls per second; `None` for as fast as the broker accepts them.
    pub rate: Option<f64>,
    /// Seed of the random numbers; `None` for a new one each time.
    pub seed: Option<u64>,
    /// Adds late, duplicate and unusable records.
    pub disorder: bool,
    /// Start of the days that calls are spread over; `None` for calls of the last minutes.
    pub since: Option<Time>,
    /// End of the calls; `None` for now.
    pub until: Option<Time>,
}

/// Publishes calls, which end about when the sending ends, or at `until`. Prints the number of records by topic, and of
/// the unusable ones, which become dead letters; when cancelled, of those sent so far.
pub async fn run(
    settings: &Settings,
    options: SimulateOptions,
    json: bool,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let now = options.until.map_or_else(|| Utc::now().timestamp_millis(), |until| until.micros() / 1000);
    let seed = options.seed.unwrap_or_else(new_seed);
    let SimulateOptions { rate, disorder, since, .. } = options;
    let (plan, end) = match since {
        Some(since) => {
            let (plan, end) = plan_over_days(options.calls, since, seed, disorder, now)?;
            (plan, Some(end))
        }
        None => (plan(options.calls.unwrap_or(CALLS), rate, seed, disorder, now), None),
    };
    let calls = plan.calls;
    let ours = settings.clone();
    tokio::task::spawn_blocking(move || require_topics(&ours, &Topic::ALL)).await??;
    let sender = Sender::new(settings)?;

    // Calls overlap: spread the records, not the calls, evenly over the whole time.
    let (total, mut ticks) = match rate {
        Some(rate) => {
            let whole = plan.clone();
            let total = tokio::task::spawn_blocking(move || traffic(&whole).count()).await?;
            let per_tick = total as f64 / calls.max(1) as f64 * rate * TICK.as_secs_f64();
            let mut interval = tokio::time::interval(TICK);
            interval.set_missed_tick_behavior(MissedTickBehavior::Burst);
            (Some(total as u64), Some((interval, per_tick)))
        }
        None => (None, None),
    };

    let progress = SendProgress::new(total);
    let (mut sent, mut unusable) = (BTreeMap::new(), BTreeMap::new());
    let (mut count, mut due) = (0_u64, 0.0);
    let all: Box<dyn Iterator<Item = Sent> + Send> = match end {
        Some(end) => Box::new(traffic_over_days(&plan, end)),
        None => Box::new(traffic(&plan)),
    };
    let mut records = all.peekable();
    while records.peek().is_some() && !cancel.is_cancelled() {
        let mut quota = CHUNK;
        if let Some((interval, per_tick)) = &mut ticks {
            tokio::select! {
                _ = interval.tick() => {}
                () = cancel.cancelled() => break,
            }
            due += *per_tick;
            quota = (due - count as f64).max(0.0) as usize;
        }
        while quota > 0 {
            let chunk: Vec<Sent> = records.by_ref().take(quota.min(CHUNK)).collect();
            if chunk.is_empty() {
                break;
            }
            quota -= chunk.len();
            for one in &chunk {
                *sent.entry(one.record.topic).or_insert(0_u64) += 1;
                if let Some(reason) = one.unusable {
                    *unusable.entry(reason).or_insert(0_u64) += 1;
                }
            }
            let size = chunk.len() as u64;
            send(&sender, chunk.into_iter().map(|one| one.record).collect(), count).await?;
            count += size;
            progress.at(count);
        }
    }
    progress.end();
    let interrupted = records.peek().is_some();

    let until = Time::from_micros(now * 1000);
    if json {
        let all = json!({
            "calls": calls, "seed": seed, "records": count, "sent": sent, "unusable": unusable,
            "interrupted": interrupted,
            "since": since.map(|since| since.to_string()), "until": until.to_string(),
        });
        return print(all);
    }
    print(counts("topic", "records", &settings.topic_prefix, &sent))?;
    if !unusable.is_empty() {
        print("Of these the daemon cannot use the following, which become dead letters:")?;
        print(counts("reason", "records", "", &unusable))?;
    }
    if interrupted {
        return print(format!(
            "Interrupted: {count} records sent, which is not all of {calls} calls (seed {seed})"
        ));
    }
    print(format!("{count} records of {calls} calls sent (seed {seed})"))?;
    // with a rate, the times of calls follow the clock and cannot be repeated
    if rate.is_none() {
        let since = since.map_or_else(String::new, |since| format!(" --since {since}"));
        let disorder = if disorder { " --disorder" } else { "" };
        print(format!(
            "The same records once more: voiceclone-events simulate --calls {calls} --seed {seed}{since} --until \
             {until}{disorder}"
        ))?;
    }
    Ok(())
}

/// A random seed, short enough to be read aloud.
fn new_seed() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().0 % 1_000_000_000_000
}

/// The traffic over the days from `since` to `now`, and the latest start of a call.
pub fn plan_over_days(
    calls: Option<u64>,
    since: Time,
    seed: u64,
    disorder: bool,
    now: i64,
) -> anyhow::Result<(Scenario, i64)> {
    let (start, end) = (since.micros() / 1000, now - MAX_CALL_MS);
    if !(HOUR_MS..=MAX_DAYS * SPAN_MS).contains(&(end - start)) {
        return Err(Usage::new(format!(
            "--since {since} leaves no time or too much for the calls: give a time between two hours and {MAX_DAYS} \
             days before --until, which is now unless it is given"
        ))
        .into());
    }
    let calls = calls.unwrap_or_else(|| {
        let calls = CALLS_A_DAY * (end - start) / SPAN_MS;
        calls.max(1).unsigned_abs()
    });
    let plan = Scenario { calls, seed, disorder, start, spacing_ms: 1, ttl_seconds: None };
    Ok((plan, end))
}

/// The traffic of calls that end about when the sending does.
fn plan(calls: u64, rate: Option<f64>, seed: u64, disorder: bool, now: i64) -> Scenario {
    let many = i64::try_from(calls).unwrap_or(i64::MAX).max(1);
    // a float out of range saturates to the largest integer
    let (spacing_ms, takes) = match rate {
        Some(rate) => ((1000.0 / rate) as i64, (calls as f64 / rate * 1000.0) as i64),
        None => ((SPAN_MS / many).min(SPACING_MS), 0),
    };
    let spacing_ms = spacing_ms.max(1);
    let start = now
        .saturating_add(takes)
        .saturating_sub(spacing_ms.saturating_mul(many))
        .saturating_sub(LAST_CALL_MS);
    Scenario { calls, seed, disorder, start: start.max(0), spacing_ms, ttl_seconds: None }
}

/// Sends a chunk, and retries failed records a few times. Late or duplicate records make the same rows.
async fn send(sender: &Sender, mut chunk: Vec<Outgoing>, before: u64) -> anyhow::Result<()> {
    let size = chunk.len();
    let mut pauses = PAUSES.iter();
    loop {
        let outcomes = sender.send_all(&chunk).await;
        let Some(error) = outcomes.iter().find_map(|outcome| outcome.as_ref().err()) else {
            return Ok(());
        };
        let mut kept = outcomes.iter().map(Result::is_err);
        chunk.retain(|_| kept.next().unwrap_or(true));
        let Some(pause) = pauses.next() else {
            let sent = before + (size - chunk.len()) as u64;
            bail!(
                "the broker did not take {} records after {} tries ({error}), {sent} were sent before: see that it \
                 is well, then simulate again; the same --seed makes the same calls",
                chunk.len(),
                PAUSES.len() + 1
            );
        };
        tracing::warn!(failed = chunk.len(), %error, "records could not be sent; trying again");
        tokio::time::sleep(*pause).await;
    }
}

/// The progress of sending: a bar on a terminal, else a line every few seconds.
struct SendProgress {
    bar: ProgressBar,
    total: Option<u64>,
    is_terminal: bool,
    reported: std::cell::Cell<Instant>,
}

impl SendProgress {
    fn new(total: Option<u64>) -> SendProgress {
        let is_terminal = std::io::stderr().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(total, target);
        let form = match total {
            Some(_) => "{bar:40} {human_pos} of {human_len} records, {eta} left",
            None => "{spinner} {human_pos} records, {per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(form) {
            bar.set_style(style);
        }
        SendProgress { bar, total, is_terminal, reported: std::cell::Cell::new(Instant::now()) }
    }

    fn at(&self, count: u64) {
        self.bar.set_position(count);
        if !self.is_terminal && self.reported.get().elapsed() >= LINE_EVERY {
            self.reported.set(Instant::now());
            match self.total {
                Some(total) => say(format!("{count} of {total} records sent")),
                None => say(format!("{count} records sent")),
            }
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn counts(of: &str, what: &str, prefix: &str, counts: &BTreeMap<&'static str, u64>) -> Table {
    let rows = counts.iter().map(|(name, count)| [format!("{prefix}{name}"), count.to_string()]);
    output::table([of, what], &[1], rows)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn the_calls_end_about_when_the_sending_does() {
        let now = 1_750_000_000_000;
        let fast = plan(1000, None, 1, false, now);
        assert_eq!((fast.spacing_ms, fast.start), (1000, now - 1_000_000 - LAST_CALL_MS));
        let many = plan(1_000_000, None, 1, false, now);
        assert!(many.spacing_ms == 86 && now - many.start <= SPAN_MS + LAST_CALL_MS);
        let paced = plan(100, Some(2.0), 1, false, now);
        assert_eq!((paced.spacing_ms, paced.start), (500, now - LAST_CALL_MS));
        for rate in [None, Some(f64::MIN_POSITIVE), Some(f64::MAX)] {
            let plan = plan(u64::MAX, rate, 1, false, now);
            assert!(plan.spacing_ms >= 1 && plan.start >= 0);
        }
    }

    #[test]
    fn over_days_there_are_as_many_calls_a_day_as_not_said_otherwise_and_none_after_the_end() {
        let now = 1_750_000_000_000;
        let ago = |hours: i64| Time::from_micros((now - hours * HOUR_MS) * 1000);
        let (plan, end) = plan_over_days(None, ago(720), 1, false, now).unwrap();
        assert_eq!((plan.calls, plan.start, end), (14_993, now - 720 * HOUR_MS, now - MAX_CALL_MS));
        assert_eq!(plan_over_days(Some(7), ago(2), 1, false, now).unwrap().0.calls, 7);
        for wrong in [ago(1), ago(-5), Time::from_micros(0)] {
            assert!(plan_over_days(None, wrong, 1, false, now).unwrap_err().is::<Usage>(), "{wrong}");
        }
    }
}
