//! The bounds of a range, as `--from` and `--to` state them.

use crate::cli::Usage;
use crate::event::Time;
use crate::kafka::range::Bound;

/// An integer is an offset; anything else is a time.
pub(in crate::commands) fn bound(flag: &str, text: &str) -> anyhow::Result<Bound> {
    let offset = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().ok().map(Bound::Offset)
    } else {
        None
    };
    match offset.or_else(|| Time::parse(text).ok().map(Bound::Time)) {
        Some(bound) => Ok(bound),
        None => {
            let remedy = "give an offset like 1200, or a time like 2025-06-01T12:00:00Z";
            Err(Usage::new(format!("{flag} is {text:?}: {remedy}")).into())
        }
    }
}

/// Refuses an empty range; a time and an offset cannot be compared.
pub(in crate::commands) fn in_order(from: Option<Bound>, to: Option<Bound>) -> anyhow::Result<()> {
    let ordered = match (from, to) {
        (Some(Bound::Offset(from)), Some(Bound::Offset(to))) => from < to,
        (Some(Bound::Time(from)), Some(Bound::Time(to))) => from < to,
        _ => true,
    };
    if !ordered {
        let text = "--from is not before --to, so that there is nothing to read: give a --to after --from";
        return Err(Usage::new(text).into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_is_an_offset_or_a_time() {
        assert_eq!(bound("--from", "1200").unwrap(), Bound::Offset(1200));
        let time = Time::parse("2025-06-01T12:00:00Z").unwrap();
        assert_eq!(bound("--from", "2025-06-01T12:00:00Z").unwrap(), Bound::Time(time));
        for bad in ["", "-1", "1.5", "yesterday", "99999999999999999999", "2025-06-01"] {
            let error = bound("--to", bad).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--to is {bad:?}: give an offset like")), "{error}");
            assert!(error.contains("or a time like"), "{error}");
        }
    }

    #[test]
    fn from_is_before_to() {
        assert!(in_order(Some(Bound::Offset(1)), Some(Bound::Offset(2))).is_ok());
        assert!(in_order(Some(Bound::Offset(2)), Some(Bound::Offset(2))).is_err());
        assert!(in_order(None, Some(Bound::Offset(0))).is_ok());
        assert!(in_order(Some(Bound::Offset(9)), Some(Bound::Time(Time::MAX))).is_ok());
    }
}
