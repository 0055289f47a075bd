//! Detects recreated topics. librdkafka 2.12 does not follow a topic that is deleted and created again under the same
//! name: it rejects leaders with a lower epoch, and fetches nothing.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::record::Topic;

/// The topics' ids since the client was created.
#[derive(Debug, Default)]
pub(super) struct TopicWatch {
    known: BTreeMap<Topic, Uuid>,
}

impl TopicWatch {
    /// Compares the current ids with the known ones. Returns a recreated topic, if there is one. A topic that is
    /// missing keeps its known id, as it may come back with another.
    pub fn compare(&mut self, ids: &BTreeMap<Topic, Uuid>) -> Option<Topic> {
        let mut recreated = None;
        for (topic, id) in ids {
            if self.known.entry(*topic).or_insert(*id) != id {
                recreated = Some(*topic);
            }
        }
        recreated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_with_another_id_was_recreated_and_a_new_or_missing_one_was_not() {
        let ids = |id: u128| BTreeMap::from([(Topic::CloneReady, Uuid::from_u128(id))]);
        let mut watch = TopicWatch::default();
        assert_eq!(watch.compare(&ids(1)), None);
        assert_eq!(watch.compare(&BTreeMap::new()), None);
        assert_eq!(watch.compare(&ids(1)), None);
        assert_eq!(watch.compare(&ids(2)), Some(Topic::CloneReady));
    }
}
