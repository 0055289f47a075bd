// @generated automatically by Diesel CLI.

pub mod ingest {
    diesel::table! {
        ingest.adopted_tables (table_name) {
            table_name -> Text,
        }
    }

    diesel::table! {
        ingest.calls (call_id) {
            #[max_length = 255]
            call_id -> Varchar,
            initiated_at -> Nullable<Timestamp>,
            terminal_at -> Nullable<Timestamp>,
            threecx_call_id_at -> Nullable<Timestamp>,
            caller_id_at -> Nullable<Timestamp>,
            cloned_voice_id_at -> Nullable<Timestamp>,
            call_started_at_at -> Nullable<Timestamp>,
            call_ended_at_at -> Nullable<Timestamp>,
            duration_seconds_at -> Nullable<Timestamp>,
            transcript_at -> Nullable<Timestamp>,
            metadata_at -> Nullable<Timestamp>,
            metadata_keys_at -> Nullable<Text>,
        }
    }

    diesel::table! {
        ingest.consumer_offsets (group_id, topic, partition) {
            group_id -> Text,
            topic -> Text,
            partition -> Int4,
            next_offset -> Int8,
            dead_in_a_row -> Int8,
            updated_at -> Timestamp,
            topic_id -> Nullable<Uuid>,
            stopped_at -> Nullable<Timestamp>,
        }
    }

    diesel::table! {
        ingest.dead_letters (id) {
            id -> Int8,
            topic -> Text,
            partition -> Int4,
            record_offset -> Int8,
            record_timestamp -> Timestamp,
            key -> Nullable<Bytea>,
            value -> Nullable<Bytea>,
            headers -> Array<Nullable<Bytea>>,
            reason -> Text,
            message -> Text,
            created_at -> Timestamp,
            resolved_at -> Nullable<Timestamp>,
            published_at -> Nullable<Timestamp>,
            tried_at -> Nullable<Timestamp>,
            publish_at -> Timestamp,
            publish_claim -> Nullable<Uuid>,
            publish_tries -> Int4,
            unpublishable -> Nullable<Text>,
            bytes -> Nullable<Int8>,
            resolution -> Nullable<Text>,
            note -> Nullable<Text>,
            tries -> Int4,
            last_tried_at -> Nullable<Timestamp>,
        }
    }

    diesel::table! {
        ingest.instances (id) {
            id -> Uuid,
            group_id -> Text,
            host -> Text,
            version -> Text,
            started_at -> Timestamp,
            beat_at -> Timestamp,
            waiting -> Jsonb,
            member_id -> Nullable<Text>,
        }
    }

    diesel::table! {
        ingest.mappings (caller_id) {
            #[max_length = 255]
            caller_id -> Varchar,
            state_at -> Nullable<Timestamp>,
            deleted_at -> Nullable<Timestamp>,
            updated_at -> Nullable<Timestamp>,
            created_at -> Nullable<Timestamp>,
        }
    }

    diesel::table! {
        ingest.outbox (id) {
            created_at -> Timestamp,
            id -> Int8,
            expired_at -> Timestamp,
            ids -> Array<Nullable<Uuid>>,
            of_events -> Bool,
            caller_ids -> Array<Nullable<Text>>,
            cloned_voice_ids -> Array<Nullable<Text>>,
            clone_created_ats -> Array<Nullable<Timestamp>>,
            ttl_expires_ats -> Array<Nullable<Timestamp>>,
            reuse_counts -> Array<Nullable<Int4>>,
            last_used_ats -> Array<Nullable<Timestamp>>,
            publish_at -> Timestamp,
            publish_claim -> Nullable<Uuid>,
            publish_tries -> Int4,
            traceparent -> Nullable<Text>,
        }
    }

    diesel::table! {
        ingest.pauses (group_id, topic) {
            group_id -> Text,
            topic -> Text,
            paused_at -> Timestamp,
            until -> Nullable<Timestamp>,
        }
    }

    diesel::table! {
        ingest.skips (id) {
            id -> Int8,
            group_id -> Text,
            topic -> Text,
            partition -> Int4,
            from_offset -> Int8,
            to_offset -> Nullable<Int8>,
            note -> Text,
            skipped_at -> Timestamp,
            cause -> Text,
        }
    }

    diesel::table! {
        ingest.voices (cloned_voice_id) {
            #[max_length = 255]
            cloned_voice_id -> Varchar,
            transfers -> Int8,
            last_transferred_at -> Nullable<Timestamp>,
        }
    }

    diesel::allow_tables_to_appear_in_same_query!(
        adopted_tables,
        calls,
        consumer_offsets,
        dead_letters,
        instances,
        mappings,
        outbox,
        pauses,
        skips,
        voices,
    );
}
