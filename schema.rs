// @generated automatically by Diesel CLI.

diesel::table! {
    public.call_log (id) {
        id -> Uuid,
        #[max_length = 255]
        call_id -> Varchar,
        #[max_length = 255]
        threecx_call_id -> Nullable<Varchar>,
        #[max_length = 255]
        caller_id -> Nullable<Varchar>,
        #[max_length = 255]
        cloned_voice_id -> Nullable<Varchar>,
        call_started_at -> Nullable<Timestamp>,
        call_ended_at -> Nullable<Timestamp>,
        duration_seconds -> Nullable<Int4>,
        transcript -> Nullable<Text>,
        #[max_length = 50]
        status -> Varchar,
        metadata -> Nullable<Json>,
        created_at -> Timestamp,
        updated_at -> Timestamp,
    }
}

diesel::table! {
    public.caller_voice_mapping (id) {
        id -> Uuid,
        #[max_length = 255]
        caller_id -> Varchar,
        #[max_length = 2048]
        voice_sample_url -> Varchar,
        #[max_length = 255]
        voice_name -> Nullable<Varchar>,
        description -> Nullable<Text>,
        #[max_length = 255]
        account_id -> Nullable<Varchar>,
        created_at -> Timestamp,
        updated_at -> Timestamp,
        deleted_at -> Nullable<Timestamp>,
    }
}

diesel::table! {
    public.clone_failed_events (id) {
        id -> Uuid,
        #[max_length = 255]
        caller_id -> Varchar,
        #[max_length = 255]
        greeting_call_id -> Varchar,
        error_message -> Text,
        failed_at -> Timestamp,
        created_at -> Timestamp,
    }
}

diesel::table! {
    public.clone_ready_events (id) {
        id -> Uuid,
        #[max_length = 255]
        caller_id -> Varchar,
        #[max_length = 255]
        greeting_call_id -> Varchar,
        #[max_length = 255]
        cloned_voice_id -> Varchar,
        clone_duration_ms -> Nullable<Int4>,
        ready_at -> Timestamp,
        created_at -> Timestamp,
    }
}

diesel::table! {
    public.clone_transfer_events (id) {
        id -> Uuid,
        #[max_length = 255]
        greeting_call_id -> Varchar,
        #[max_length = 255]
        agent_call_id -> Varchar,
        #[max_length = 255]
        cloned_voice_id -> Varchar,
        transferred_at -> Timestamp,
        created_at -> Timestamp,
    }
}

diesel::table! {
    public.voice_clone_cache (id) {
        id -> Uuid,
        #[max_length = 255]
        caller_id -> Varchar,
        #[max_length = 255]
        cloned_voice_id -> Varchar,
        clone_created_at -> Timestamp,
        ttl_expires_at -> Timestamp,
        reuse_count -> Int4,
        last_used_at -> Timestamp,
        created_at -> Timestamp,
        deleted_at -> Nullable<Timestamp>,
    }
}

diesel::table! {
    public.voice_clone_log (id) {
        id -> Uuid,
        #[max_length = 255]
        caller_id -> Varchar,
        #[max_length = 255]
        cloned_voice_id -> Nullable<Varchar>,
        clone_created_at -> Nullable<Timestamp>,
        api_response_time_ms -> Nullable<Int4>,
        sample_file_size_bytes -> Nullable<Int4>,
        #[max_length = 50]
        status -> Varchar,
        error_message -> Nullable<Text>,
        created_at -> Timestamp,
    }
}

diesel::allow_tables_to_appear_in_same_query!(
    call_log,
    caller_voice_mapping,
    clone_failed_events,
    clone_ready_events,
    clone_transfer_events,
    voice_clone_cache,
    voice_clone_log,
);
