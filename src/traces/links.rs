//! The choice of a span's links: one for each distinct context, sampled ones first. No I/O.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use opentelemetry::trace::{SpanContext, SpanId, TraceId};

/// Links, and the number of those that were left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen<P> {
    /// In the order of their first appearance, sampled ones first.
    pub links: Vec<(SpanContext, P)>,
    pub left_out: usize,
}

/// Chooses at most `most` of these contexts. Contexts with the same trace and span are one link, at the first place.
pub(super) fn choose<P>(contexts: impl Iterator<Item = (SpanContext, P)>, most: usize) -> Chosen<P> {
    let mut known: HashMap<(TraceId, SpanId), usize> = HashMap::new();
    let mut links: Vec<(SpanContext, P)> = Vec::new();
    for (context, place) in contexts {
        match known.entry((context.trace_id(), context.span_id())) {
            Entry::Vacant(vacant) => {
                vacant.insert(links.len());
                links.push((context, place));
            }
            Entry::Occupied(at) => {
                // one of the two producers may not have known that the span is sampled
                if let Some((first, _)) = links.get_mut(*at.get()).filter(|_| context.is_sampled()) {
                    *first = context;
                }
            }
        }
    }
    links.sort_by_key(|(context, _)| !context.is_sampled());
    let left_out = links.len().saturating_sub(most);
    links.truncate(most);
    Chosen { links, left_out }
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{TraceFlags, TraceState};

    use super::*;

    fn context(trace: u128, span: u64, sampled: bool) -> SpanContext {
        let flags = TraceFlags::default().with_sampled(sampled);
        SpanContext::new(trace.into(), span.into(), flags, true, TraceState::default())
    }

    /// The places that are chosen, and how many are left out.
    fn places(contexts: &[SpanContext], most: usize) -> (Vec<usize>, usize) {
        let chosen = choose(contexts.iter().cloned().zip(0..), most);
        (chosen.links.iter().map(|(_, place)| *place).collect(), chosen.left_out)
    }

    #[test]
    fn contexts_with_the_same_trace_and_span_are_one_link() {
        let all = [context(1, 1, true), context(1, 2, true), context(1, 1, true), context(2, 1, true)];
        assert_eq!(places(&all, 128), (vec![0, 1, 3], 0));
    }

    #[test]
    fn sampled_contexts_come_first_and_the_rest_is_counted() {
        let all = [context(1, 1, false), context(2, 1, true), context(3, 1, false), context(4, 1, true)];
        assert_eq!(places(&all, 128), (vec![1, 3, 0, 2], 0));
        assert_eq!(places(&all, 3), (vec![1, 3, 0], 1));
        assert_eq!(places(&all, 0), (vec![], 4));
    }

    #[test]
    fn a_context_that_is_sampled_once_counts_as_sampled() {
        let all = [context(1, 1, false), context(2, 1, false), context(2, 1, true)];
        assert_eq!(places(&all, 1), (vec![1], 1));
    }

    #[test]
    fn a_hundred_thousand_contexts_are_chosen_from() {
        let all = (1..=100_000).map(|trace| (context(trace, 1, trace % 1000 == 0), ()));
        let chosen = choose(all, 128);
        assert_eq!((chosen.links.len(), chosen.left_out), (128, 99_872));
        assert_eq!(chosen.links.iter().filter(|(context, ())| context.is_sampled()).count(), 100);
    }
}
