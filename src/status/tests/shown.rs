//! What the tables show.

use super::*;
use crate::store::status::Instance;

#[test]
fn instances_on_one_host_are_told_apart_and_one_without_a_host_has_its_id() {
    let instance = |id: u128, host: &str| Instance {
        id: Uuid::from_u128(id << 96),
        host: host.into(),
        version: "0.1.0".into(),
        started_at: "2027-01-15T07:00:00Z".into(),
        beat_at: "2027-01-15T07:00:00Z".into(),
        silent_seconds: 1.0,
    };
    let mut facts = facts([Some(20), Some(20)], 20);
    answers(&mut facts).instances = Some(vec![instance(1, "a"), instance(2, "a"), instance(3, "")]);
    let names: Vec<String> =
        tables::instances(&judge(&facts)).rows.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, ["a (00000001)", "a (00000002)", "00000003"]);
}
