//! Checks for server and client certificates that expire soon.

use chrono::Utc;

use super::report::CheckReport;
use crate::certificates::Certificate;

/// Adds a warning with `remedy` for each certificate that expires soon.
pub(super) fn check(certificates: Vec<Certificate>, remedy: &str, report: &mut CheckReport) {
    let now = Utc::now();
    for certificate in certificates {
        let what = format!("certificate of {}", certificate.whose);
        if certificate.ends_soon(now) {
            report.warning(what, certificate.end(now), remedy);
        } else {
            report.ok(what, certificate.end(now));
        }
    }
}
