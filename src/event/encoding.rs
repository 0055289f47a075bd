//! Recognizes values that are not JSON, so that the message leads a producer to the wrong setting.

/// Returns a message about the encoding of a value that is not JSON, if its first bytes show it.
pub(super) fn problem(value: &[u8]) -> Option<&'static str> {
    Some(match value {
        _ if value.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) => {
            "the value is empty: a JSON object is expected; a delete has a null value, not an empty one"
        }
        [0xef, 0xbb, 0xbf, ..] => "the value begins with a byte order mark: write UTF-8 without one",
        [0xff, 0xfe, ..]
        | [0xfe, 0xff, ..]
        | [b'{' | b' ' | b'\n', 0, ..]
        | [0, b'{' | b' ' | b'\n', 0, ..] => "the value is UTF-16 (or UTF-32): write UTF-8",
        [0x1f, 0x8b, ..] => {
            "the value is gzip: write plain JSON; the producer's setting compression.type compresses what is sent"
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "the value is zstd: write plain JSON; the producer's setting compression.type compresses what is sent"
        }
        [b'O', b'b', b'j', 1, ..] => "the value is an Avro file: write JSON",
        [0xc3, 1, _, _, _, _, _, _, _, _, ..] => "the value is Avro (single-object encoding): write JSON",
        // One byte 0, followed by the schema's id in four bytes.
        [0, _, _, _, _, ..] => {
            "the value is in Confluent's wire format (magic byte 0, a schema's id, then Avro, Protobuf or JSON): \
             write plain JSON, without a schema registry's serializer"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_are_not_json_are_recognized() {
        let utf_16: Vec<u8> = "{\"a\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let big_endian: Vec<u8> = "{\"a\":1}".encode_utf16().flat_map(u16::to_be_bytes).collect();
        for (value, name) in [
            (b"".as_slice(), "is empty"),
            (b" \r\n\t", "is empty"),
            (b"\xef\xbb\xbf{\"a\":1}", "byte order mark"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\xfe\xff\0{", "UTF-16"),
            (&utf_16, "UTF-16"),
            (&big_endian, "UTF-16"),
            (b"\x1f\x8b\x08\0\0", "gzip"),
            (b"\x28\xb5\x2f\xfd\0", "zstd"),
            (b"Obj\x01\x04\x14", "Avro file"),
            (b"\xc3\x01\x12\x34\x56\x78\x9a\xbc\xde\xf0\x02", "Avro (single-object"),
            (b"\0\0\0\0\x07\x02a", "magic byte 0"),
            (b"\0\0\0\0\x07{\"a\":1}", "magic byte 0"),
        ] {
            assert!(
                problem(value).is_some_and(|words| words.contains(name)),
                "{value:?}: {:?}",
                problem(value)
            );
        }
        for value in [b"{\"a\":".as_slice(), b"garbage", b"\0", b"[1", b"\xff"] {
            assert_eq!(problem(value), None, "{value:?}");
        }
    }
}
