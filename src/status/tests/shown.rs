//! What the tables show.

use super::*;
use crate::store::status::Instance;

fn instance(id: u128, host: &str) -> Instance {
    Instance {
        id: Uuid::from_u128(id << 96),
        host: host.into(),
        member: None,
        version: "0.1.0".into(),
        started_at: "2027-01-15T07:00:00Z".into(),
        beat_at: "2027-01-15T07:00:00Z".into(),
        silent_seconds: 1.0,
    }
}

#[test]
fn instances_on_one_host_are_told_apart_and_one_without_a_host_has_its_id() {
    let mut facts = facts([Some(20), Some(20)], 20);
    answers(&mut facts).instances = Some(vec![instance(1, "a"), instance(2, "a"), instance(3, "")]);
    let names: Vec<String> =
        tables::instances(&judge(&facts)).rows.into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(names, ["a (00000001)", "a (00000002)", "00000003"]);
}

#[test]
fn members_and_partitions_name_the_instance_that_has_them() {
    let mut facts = facts([Some(12), Some(12)], 20);
    let ours = Instance { member: Some("m".into()), ..instance(2, "a") };
    answers(&mut facts).instances = Some(vec![instance(1, "a"), ours]);
    let document = judge(&facts);
    assert_eq!(document.members.as_ref().unwrap()[0].instance, Some(Uuid::from_u128(2 << 96)));
    assert_eq!(tables::members(&document).rows, [["h", "c", "00000002", "1"]]);
    assert_eq!(
        tables::partitions(&document, true, 9).rows[0][..3],
        ["p.clone.failed/1", "00000002", "catching up"]
    );

    answers(&mut facts).instances = Some(vec![instance(1, "a")]);
    let document = judge(&facts);
    assert_eq!(tables::members(&document).rows, [["h", "c", "-", "1"]]);
    assert_eq!(tables::partitions(&document, true, 9).rows[0][1], "-");
}
