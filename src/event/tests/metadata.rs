//! The rules of `metadata`.

use super::*;

#[test]
fn metadata_holds_at_most_65536_values_at_all_levels_together() {
    let array = |count: usize, item: &str| format!("[{}]", vec![item; count].join(","));
    for (raw, usable) in [
        (format!("{{\"a\":{}}}", array(65_535, "0")), true),
        (format!("{{\"a\":{}}}", array(65_536, "0")), false),
        (format!("{{\"a\":{},\"b\":{{}}}}", array(65_534, "[]")), true),
        (format!("{{\"a\":{},\"b\":{{\"c\":1}}}}", array(65_534, "[]")), false),
        (format!("{{\"a\":{}}}", array(32_767, "[0]")), true),
        (format!("{{\"a\":{},\"b\":1,\"c\":2}}", array(32_767, "[0]")), false),
    ] {
        let found = with(Topic::CallLifecycle, &[("metadata", &raw)]);
        assert_eq!(found.err(), (!usable).then_some(Reason::InvalidValue), "{raw:.40}");
    }
    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|number| format!("\"{number:05}\":1")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_metadata(&members(65_536), Ok(&members(65_536)));
    assert_metadata(&members(65_537), Err(Reason::InvalidValue));
    assert_metadata(&format!("{{{}}}", vec!["\"a\":1"; 65_537].join(",")), Err(Reason::InvalidValue));
}

#[test]
fn the_limits_of_metadata_apply_to_overwritten_values_too() {
    let arrays = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_metadata(&format!(r#"{{"a":{},"a":1}}"#, arrays(99)), Ok(r#"{"a":1}"#));
    for (value, reason) in [
        (arrays(100).as_str(), Reason::InvalidJson),
        (r#"{"\u0000":1}"#, Reason::NulCharacter),
        (r#""\ud800""#, Reason::InvalidJson),
        ("1e400", Reason::InvalidJson),
    ] {
        assert_metadata(&format!(r#"{{"a":{value},"a":1}}"#), Err(reason));
    }
    // Escaped backslashes and brackets in a text are ordinary characters.
    assert_metadata(r#"{"a":"\\u0000[\"["}"#, Ok(r#"{"a":"\\u0000[\"["}"#));
}

#[test]
fn metadata_nests_at_most_100_levels_itself_the_first() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        for (levels, usable) in [(100, true), (101, false), (127, false), (128, false), (100_000, false)] {
            let raw = format!("{{\"a\":{}1{}}}", open.repeat(levels - 1), close.repeat(levels - 1));
            assert_metadata(&raw, if usable { Ok(raw.as_str()) } else { Err(Reason::InvalidJson) });
        }
    }
}

#[test]
#[rustfmt::skip]
fn metadata_comes_out_as_it_went_in_compact_and_with_its_keys_sorted_by_bytes_at_every_level() {
    for (raw, expected) in [
        ("{}", "{}"),
        (
            "{ \"b\" : [ 1 , { \"z\" : 1 , \"a\" : 2 } ] , \"a\" : { \"y\" : 1 , \"B\" : 2 } }",
            r#"{"a":{"B":2,"y":1},"b":[1,{"a":2,"z":1}]}"#,
        ),
        // U+10000 sorts after U+FFFF by bytes, and before it by UTF-16 units.
        (
            r#"{"a":{"\ud800\udc00":1,"\uffff":2,"é":3,"e":4,"":5}}"#,
            "{\"a\":{\"\":5,\"e\":4,\"é\":3,\"\u{ffff}\":2,\"\u{10000}\":1}}",
        ),
        (r#"{"a":1,"b":{"x":1,"x":{"y":1},"x":2},"a":null}"#, r#"{"a":null,"b":{"x":2}}"#),
        (
            r#"{"a":[18446744073709551615,-9223372036854775808,0,1.0,0.1,-1.5,1e3,1e-7,5e-324]}"#,
            r#"{"a":[18446744073709551615,-9223372036854775808,0,1.0,0.1,-1.5,1000.0,1e-7,5e-324]}"#,
        ),
        (
            r#"{"a":9007199254740993,"b":18446744073709551616}"#,
            r#"{"a":9007199254740993,"b":1.8446744073709552e+19}"#,
        ),
        (r#"{"a":[true,false,null,"","\u001f\"\\\/ü"]}"#, r#"{"a":[true,false,null,"","\u001f\"\\/ü"]}"#),
        // Names that serde_json uses internally have no special meaning here.
        (
            r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#,
            r#"{"a":{"$serde_json::private::RawValue":"[1]"}}"#,
        ),
        (r#"{"$serde_json::private::RawValue":"{}"}"#, r#"{"$serde_json::private::RawValue":"{}"}"#),
        (r#"{"$serde_json::private::RawValue":7}"#, r#"{"$serde_json::private::RawValue":7}"#),
        (r#"{"a":{"$serde_json::private::Number":"7"}}"#, r#"{"a":{"$serde_json::private::Number":"7"}}"#),
    ] { assert_metadata(raw, Ok(expected)); }
    let map: Value = serde_json::from_str(r#"{"b":1,"a":1}"#).unwrap();
    assert_eq!(map.to_string(), r#"{"a":1,"b":1}"#, "serde_json's feature preserve_order must be off");
}
