//! Certificates of the servers and of this client that end soon.

use chrono::Utc;

use super::report::Report;
use crate::certificates::Certificate;

/// `remedy` of one that ends soon.
pub(super) fn check(certificates: Vec<Certificate>, remedy: &str, report: &mut Report) {
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
