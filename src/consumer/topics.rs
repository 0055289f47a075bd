//! Which topics the consumer's client began with. librdkafka 2.12 does not follow a topic that is deleted and created
//! again under its name: it takes no leader of the new one whose epoch is lower, and fetches in vain.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::record::Topic;

/// The topics' ids since the client was created.
#[derive(Debug, Default)]
pub(super) struct TopicWatch {
    known: BTreeMap<Topic, Uuid>,
}

impl TopicWatch {
    /// Takes the ids as the brokers tell them now. Returns a topic that was recreated, if there is one. A topic that is
    /// not there keeps its id: it may come back under another.
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
