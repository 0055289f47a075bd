-- The seven tables of the schema document. Where another tool made them already, what is missing is
-- added and what is there is left alone (contract, section 1); the program has compared the columns'
-- types before it comes here.
CREATE TABLE IF NOT EXISTS public.caller_voice_mapping (
    id UUID PRIMARY KEY,
    caller_id VARCHAR(255) NOT NULL,
    voice_sample_url VARCHAR(2048) NOT NULL,
    voice_name VARCHAR(255),
    description TEXT,
    account_id VARCHAR(255),
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP
);

CREATE TABLE IF NOT EXISTS public.voice_clone_cache (
    id UUID PRIMARY KEY,
    caller_id VARCHAR(255) NOT NULL,
    cloned_voice_id VARCHAR(255) NOT NULL,
    clone_created_at TIMESTAMP NOT NULL,
    ttl_expires_at TIMESTAMP NOT NULL,
    reuse_count INTEGER NOT NULL DEFAULT 1 CHECK (reuse_count >= 1),
    last_used_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP NOT NULL,
    deleted_at TIMESTAMP
);

CREATE TABLE IF NOT EXISTS public.call_log (
    id UUID PRIMARY KEY,
    call_id VARCHAR(255) NOT NULL,
    threecx_call_id VARCHAR(255),
    caller_id VARCHAR(255),
    cloned_voice_id VARCHAR(255),
    call_started_at TIMESTAMP,
    call_ended_at TIMESTAMP,
    duration_seconds INTEGER CHECK (duration_seconds >= 0),
    transcript TEXT,
    status VARCHAR(50) NOT NULL CHECK (status IN ('initiated', 'completed', 'failed')),
    metadata JSON,
    created_at TIMESTAMP NOT NULL,
    updated_at TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.voice_clone_log (
    id UUID PRIMARY KEY,
    caller_id VARCHAR(255) NOT NULL,
    cloned_voice_id VARCHAR(255),
    clone_created_at TIMESTAMP,
    api_response_time_ms INTEGER CHECK (api_response_time_ms >= 0),
    sample_file_size_bytes INTEGER CHECK (sample_file_size_bytes >= 0),
    status VARCHAR(50) NOT NULL CHECK (status IN ('success', 'failed')),
    error_message TEXT,
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.clone_ready_events (
    id UUID PRIMARY KEY,
    caller_id VARCHAR(255) NOT NULL,
    greeting_call_id VARCHAR(255) NOT NULL,
    cloned_voice_id VARCHAR(255) NOT NULL,
    clone_duration_ms INTEGER CHECK (clone_duration_ms >= 0),
    ready_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.clone_failed_events (
    id UUID PRIMARY KEY,
    caller_id VARCHAR(255) NOT NULL,
    greeting_call_id VARCHAR(255) NOT NULL,
    error_message TEXT NOT NULL,
    failed_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP NOT NULL
);

CREATE TABLE IF NOT EXISTS public.clone_transfer_events (
    id UUID PRIMARY KEY,
    greeting_call_id VARCHAR(255) NOT NULL,
    agent_call_id VARCHAR(255) NOT NULL,
    cloned_voice_id VARCHAR(255) NOT NULL,
    transferred_at TIMESTAMP NOT NULL,
    created_at TIMESTAMP NOT NULL
);

-- Columns that an older table of another tool's making may lack. Such a column is nullable: the rows
-- that are there have no value for it.
DO $$
DECLARE
    wanted RECORD;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('caller_voice_mapping', 'caller_id', 'VARCHAR(255)'), ('caller_voice_mapping', 'voice_sample_url', 'VARCHAR(2048)'),
        ('caller_voice_mapping', 'voice_name', 'VARCHAR(255)'), ('caller_voice_mapping', 'description', 'TEXT'),
        ('caller_voice_mapping', 'account_id', 'VARCHAR(255)'), ('caller_voice_mapping', 'created_at', 'TIMESTAMP'),
        ('caller_voice_mapping', 'updated_at', 'TIMESTAMP'), ('caller_voice_mapping', 'deleted_at', 'TIMESTAMP'),
        ('voice_clone_cache', 'caller_id', 'VARCHAR(255)'), ('voice_clone_cache', 'cloned_voice_id', 'VARCHAR(255)'),
        ('voice_clone_cache', 'clone_created_at', 'TIMESTAMP'), ('voice_clone_cache', 'ttl_expires_at', 'TIMESTAMP'),
        ('voice_clone_cache', 'reuse_count', 'INTEGER DEFAULT 1'), ('voice_clone_cache', 'last_used_at', 'TIMESTAMP'),
        ('voice_clone_cache', 'created_at', 'TIMESTAMP'), ('voice_clone_cache', 'deleted_at', 'TIMESTAMP'),
        ('call_log', 'call_id', 'VARCHAR(255)'), ('call_log', 'threecx_call_id', 'VARCHAR(255)'),
        ('call_log', 'caller_id', 'VARCHAR(255)'), ('call_log', 'cloned_voice_id', 'VARCHAR(255)'),
        ('call_log', 'call_started_at', 'TIMESTAMP'), ('call_log', 'call_ended_at', 'TIMESTAMP'),
        ('call_log', 'duration_seconds', 'INTEGER'), ('call_log', 'transcript', 'TEXT'),
        ('call_log', 'status', 'VARCHAR(50)'), ('call_log', 'metadata', 'JSON'),
        ('call_log', 'created_at', 'TIMESTAMP'), ('call_log', 'updated_at', 'TIMESTAMP'),
        ('voice_clone_log', 'caller_id', 'VARCHAR(255)'), ('voice_clone_log', 'cloned_voice_id', 'VARCHAR(255)'),
        ('voice_clone_log', 'clone_created_at', 'TIMESTAMP'), ('voice_clone_log', 'api_response_time_ms', 'INTEGER'),
        ('voice_clone_log', 'sample_file_size_bytes', 'INTEGER'), ('voice_clone_log', 'status', 'VARCHAR(50)'),
        ('voice_clone_log', 'error_message', 'TEXT'), ('voice_clone_log', 'created_at', 'TIMESTAMP'),
        ('clone_ready_events', 'caller_id', 'VARCHAR(255)'), ('clone_ready_events', 'greeting_call_id', 'VARCHAR(255)'),
        ('clone_ready_events', 'cloned_voice_id', 'VARCHAR(255)'), ('clone_ready_events', 'clone_duration_ms', 'INTEGER'),
        ('clone_ready_events', 'ready_at', 'TIMESTAMP'), ('clone_ready_events', 'created_at', 'TIMESTAMP'),
        ('clone_failed_events', 'caller_id', 'VARCHAR(255)'), ('clone_failed_events', 'greeting_call_id', 'VARCHAR(255)'),
        ('clone_failed_events', 'error_message', 'TEXT'), ('clone_failed_events', 'failed_at', 'TIMESTAMP'),
        ('clone_failed_events', 'created_at', 'TIMESTAMP'),
        ('clone_transfer_events', 'greeting_call_id', 'VARCHAR(255)'), ('clone_transfer_events', 'agent_call_id', 'VARCHAR(255)'),
        ('clone_transfer_events', 'cloned_voice_id', 'VARCHAR(255)'), ('clone_transfer_events', 'transferred_at', 'TIMESTAMP'),
        ('clone_transfer_events', 'created_at', 'TIMESTAMP')
    ) AS columns_wanted (table_name, column_name, type)
    LOOP
        EXECUTE format('ALTER TABLE public.%I ADD COLUMN IF NOT EXISTS %I %s', wanted.table_name, wanted.column_name, wanted.type);
    END LOOP;
END
$$;

-- An index is missing where none that is valid, whole and of just that column is there, whatever its name.
DO $$
DECLARE
    wanted RECORD;
BEGIN
    FOR wanted IN SELECT * FROM (VALUES
        ('caller_voice_mapping', 'id', true), ('caller_voice_mapping', 'caller_id', true),
        ('caller_voice_mapping', 'account_id', false), ('caller_voice_mapping', 'created_at', false),
        ('voice_clone_cache', 'id', true), ('voice_clone_cache', 'caller_id', false),
        ('voice_clone_cache', 'cloned_voice_id', false), ('voice_clone_cache', 'ttl_expires_at', false),
        ('call_log', 'id', true), ('call_log', 'call_id', true), ('call_log', 'threecx_call_id', false),
        ('call_log', 'caller_id', false), ('call_log', 'status', false), ('call_log', 'created_at', false),
        ('voice_clone_log', 'id', true), ('voice_clone_log', 'caller_id', false),
        ('voice_clone_log', 'cloned_voice_id', false), ('voice_clone_log', 'status', false),
        ('clone_ready_events', 'id', true), ('clone_ready_events', 'caller_id', false),
        ('clone_ready_events', 'greeting_call_id', false), ('clone_ready_events', 'ready_at', false),
        ('clone_failed_events', 'id', true), ('clone_failed_events', 'caller_id', false),
        ('clone_failed_events', 'greeting_call_id', false), ('clone_failed_events', 'failed_at', false),
        ('clone_transfer_events', 'id', true), ('clone_transfer_events', 'greeting_call_id', false),
        ('clone_transfer_events', 'agent_call_id', false), ('clone_transfer_events', 'transferred_at', false)
    ) AS indexes_wanted (table_name, column_name, is_unique)
    LOOP
        IF NOT EXISTS (
            SELECT FROM pg_catalog.pg_index i
            JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
            WHERE i.indrelid = format('public.%I', wanted.table_name)::regclass
              AND i.indnkeyatts = 1 AND i.indpred IS NULL AND i.indisvalid
              AND a.attname = wanted.column_name AND (i.indisunique OR NOT wanted.is_unique)
        ) THEN
            EXECUTE format('CREATE %s INDEX %I ON public.%I (%I)', CASE WHEN wanted.is_unique THEN 'UNIQUE' ELSE '' END,
                           'ix_' || wanted.table_name || '_' || wanted.column_name, wanted.table_name, wanted.column_name);
        END IF;
    END LOOP;
END
$$;

-- Transfers that are there already count in the cache rows of their voices.
INSERT INTO ingest.voices (cloned_voice_id, transfers, last_transferred_at)
SELECT cloned_voice_id, count(*), max(transferred_at)
FROM public.clone_transfer_events
WHERE cloned_voice_id IS NOT NULL
GROUP BY cloned_voice_id;
