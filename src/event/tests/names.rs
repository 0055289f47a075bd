//! Tests of the names that are read: those of the contract, and no others.

use super::*;

#[test]
fn the_known_names_of_a_topic_are_the_fields_of_the_contract() {
    for topic in Topic::ALL {
        let contract: Vec<&str> = fields(topic).iter().map(|(name, _)| *name).collect();
        let mut known = field_names(topic).to_vec();
        known.sort_by_key(|name| contract.iter().position(|field| field == name));
        assert_eq!(known, contract, "{topic}");
    }
}

#[test]
fn every_known_name_is_decoded() {
    for topic in Topic::ALL {
        for name in field_names(topic) {
            assert_eq!(with(topic, &[(*name, "[]")]), Err(Reason::InvalidType), "{topic} {name}");
        }
    }
}

/// A name that is not known fails an assertion of [`json::Members`]: its value would always be absent.
#[test]
fn every_name_that_decoding_reads_is_known() {
    for topic in Topic::ALL {
        assert!(read(&bare(topic)).is_ok(), "{topic}");
        assert!(read(&envelope(topic, "\"specversion\":\"1.0\",", &[])).is_ok(), "{topic}");
    }
    assert!(with(MAPPING, &[("deleted", "true")]).is_ok());
}
