//! The report of `check`, for a person or as JSON.

use serde::Serialize;
use serde_json::json;

use crate::config::Settings;
use crate::output::print;

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StepOutcome {
    Ok,
    /// `run` works, but perhaps not as expected.
    Warning,
    /// `run` would not work.
    Wrong,
    /// An earlier step failed, or the step cannot be tried without side effects.
    Untried,
}

impl StepOutcome {
    fn word(self) -> &'static str {
        match self {
            StepOutcome::Ok => "ok",
            StepOutcome::Warning => "warning",
            StepOutcome::Wrong => "WRONG",
            StepOutcome::Untried => "untried",
        }
    }
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct CheckStep {
    outcome: StepOutcome,
    what: String,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

#[derive(Default)]
pub(super) struct CheckReport {
    steps: Vec<CheckStep>,
}

impl CheckReport {
    pub(super) fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.add(StepOutcome::Ok, what, found, None);
    }

    pub(super) fn wrong(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(StepOutcome::Wrong, what, found, Some(remedy.into()));
    }

    pub(super) fn warning(
        &mut self,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.add(StepOutcome::Warning, what, found, Some(remedy.into()));
    }

    pub(super) fn untried(&mut self, what: impl Into<String>, why: impl Into<String>) {
        self.add(StepOutcome::Untried, what, why, None);
    }

    fn add(
        &mut self,
        outcome: StepOutcome,
        what: impl Into<String>,
        found: impl Into<String>,
        remedy: Option<String>,
    ) {
        self.steps.push(CheckStep { outcome, what: what.into(), found: found.into(), remedy });
    }

    fn count(&self, outcome: StepOutcome) -> usize {
        self.steps.iter().filter(|step| step.outcome == outcome).count()
    }

    pub(super) fn is_good(&self) -> bool {
        self.count(StepOutcome::Wrong) == 0
    }

    pub(super) fn print(&self, settings: &Settings, json: bool) -> anyhow::Result<()> {
        let effective = settings.effective();
        if json {
            let effective: serde_json::Map<_, _> =
                effective.into_iter().map(|(name, value)| (name, value.into())).collect();
            return print(json!({"ok": self.is_good(), "settings": effective, "checks": self.steps}));
        }
        let width = effective.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut lines = vec!["Settings".to_owned()];
        lines.extend(effective.iter().map(|(name, value)| format!("  {name:width$}  {value}")));
        lines.extend([String::new(), "Checks".to_owned()]);
        let width = self.steps.iter().map(|step| step.what.chars().count()).max().unwrap_or(0);
        for CheckStep { outcome, what, found, remedy } in &self.steps {
            // further lines are indented to the column
            let found = found.replace('\n', &format!("\n{:1$}", "", width + 13));
            lines.push(format!("  {:7}  {what:width$}  {found}", outcome.word()));
            if let Some(remedy) = remedy {
                let remedy = remedy.replace('\n', &format!("\n{:1$}", "", width + 16));
                lines.push(format!("  {:7}  {:width$}  -> {remedy}", "", ""));
            }
        }
        lines.extend([String::new(), self.verdict()]);
        print(lines.join("\n"))
    }

    /// The last line: the number of failures and the first remedy.
    fn verdict(&self) -> String {
        let wrong: Vec<&CheckStep> =
            self.steps.iter().filter(|step| step.outcome == StepOutcome::Wrong).collect();
        let Some(first) = wrong.first() else {
            let warnings = match self.count(StepOutcome::Warning) {
                0 => "",
                1 => " There is one warning.",
                _ => " There are warnings.",
            };
            return format!("`voiceclone-events run` would work.{warnings}");
        };
        let mut names: Vec<&str> = wrong.iter().map(|step| step.what.as_str()).collect();
        names.dedup();
        let verb = if names.len() == 1 { "is" } else { "are" };
        let remedy = first.remedy.as_deref().unwrap_or_default().replace('\n', " ");
        let begin = if wrong.len() == 1 { "" } else { "first " };
        format!(
            "`voiceclone-events run` would not work, as {} {verb} WRONG: {begin}{remedy}",
            names.join(", ")
        )
    }
}
