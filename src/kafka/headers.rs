//! Headers as bytes. rdkafka's safe functions handle names as `str` and panic at a name that is not UTF-8, which
//! Kafka's protocol rules out but brokers accept.

#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;

use rdkafka::bindings::{
    rd_kafka_header_add, rd_kafka_header_cnt, rd_kafka_header_get_all, rd_kafka_headers_t,
    rd_kafka_message_headers, rd_kafka_message_t, rd_kafka_resp_err_t,
};
use rdkafka::message::{BorrowedMessage, OwnedHeaders};

use crate::record::Header;

/// Returns the headers of a message, in order. librdkafka returns a name only up to its first NUL byte.
pub fn read(message: &BorrowedMessage<'_>) -> Vec<Header> {
    // SAFETY: the pointer is that of a message which lives as long as `message`.
    unsafe { read_native(message.ptr()) }
}

/// As [`read`], of librdkafka's own message.
///
/// # Safety
///
/// `message` points to a message of librdkafka that is not destroyed, and that no other thread uses meanwhile:
/// librdkafka parses its headers at the first question for them.
pub(super) unsafe fn read_native(message: *const rd_kafka_message_t) -> Vec<Header> {
    let mut list: *mut rd_kafka_headers_t = ptr::null_mut();
    // SAFETY: the caller answers for the message; the list belongs to it, and lives as long.
    let found = unsafe { rd_kafka_message_headers(message, &raw mut list) };
    if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || list.is_null() {
        return Vec::new();
    }
    // SAFETY: the list was just given, and is not null.
    let count = unsafe { rd_kafka_header_cnt(list) };
    (0..count)
        .map_while(|index| {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; the three places are written before the call returns without an error.
            let got =
                unsafe { rd_kafka_header_get_all(list, index, &raw mut name, &raw mut value, &raw mut size) };
            if got != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
                return None;
            }
            // SAFETY: librdkafka ends every name with a NUL byte.
            let name = unsafe { CStr::from_ptr(name) }.to_bytes().to_vec();
            let value = (!value.is_null()).then(|| {
                // SAFETY: a value that is not null has `size` bytes.
                unsafe { std::slice::from_raw_parts(value.cast::<u8>(), size) }.to_vec()
            });
            Some(Header { name, value })
        })
        .collect()
}

/// Returns the headers of a record to be sent, in order.
pub fn write(headers: &[Header]) -> OwnedHeaders {
    let owned = OwnedHeaders::new_with_capacity(headers.len());
    // The address of rdkafka's borrowed list is the list's own, as its `BorrowedHeaders::as_native_ptr` shows.
    let list = ptr::from_ref(owned.as_borrowed()).cast_mut().cast::<rd_kafka_headers_t>();
    for header in headers {
        let (value, size) =
            header.value.as_ref().map_or((ptr::null(), 0), |value| (value.as_ptr(), value.len()));
        // SAFETY: `owned` owns the list and is not used meanwhile; librdkafka copies the bytes of name and value, whose
        // pointers are valid for these lengths. A Rust allocation has at most `isize::MAX` bytes.
        unsafe {
            rd_kafka_header_add(
                list,
                header.name.as_ptr().cast(),
                header.name.len().cast_signed(),
                value.cast(),
                size.cast_signed(),
            );
        }
    }
    owned
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Headers;

    use super::*;

    #[test]
    fn headers_that_rdkafka_can_read_are_written_as_they_are() {
        let headers = [
            Header::new("a", "1"),
            Header { name: b"b".to_vec(), value: None },
            Header::new("", ""),
            Header::new("a", b"\xff\0\xfe".as_slice()),
        ];
        let written = write(&headers);
        let read: Vec<Header> = written
            .iter()
            .map(|header| Header {
                name: header.key.as_bytes().to_vec(),
                value: header.value.map(<[u8]>::to_vec),
            })
            .collect();
        assert_eq!(read, headers);
        assert_eq!(write(&[]).count(), 0);
    }
}
