//! The parameters of a database URL: their names, and the reading of their values.

use std::collections::BTreeMap;

use super::{UrlProblem, unreadable};

/// Parameters of other drivers and pools, which have no meaning here.
const OF_OTHER_DRIVERS: &str = "\
    async_creator async_fallback autocommit autosave binary_parameters binaryTransfer cache_prepared_statements \
    checkout_timeout command_timeout conn_health_checks conn_max_age connection_class connection_limit connectTimeout \
    connection_lifetime connectionTimeoutMillis currentSchema cursor_factory default_query_exec_mode \
    defaultRowFetchSize description_cache_capacity direct_tls disable_server_side_cursors echo echo_pool \
    executemany_batch_page_size executemany_mode future idleTimeoutMillis idle_in_transaction_session_timeout \
    implicit_returning insertmanyvalues_page_size isolation_level keepAlive lock_timeout logging_name loginTimeout loop \
    max_cacheable_statement_size max_cached_statement_lifetime max_overflow max_size min_size ApplicationName \
    plugin pgbouncer pool pool_health_check_period pool_logging_name pool_max_conn_idle_time pool_max_conn_lifetime \
    pool_max_conn_lifetime_jitter pool_max_conns pool_min_conns pool_pre_ping pool_recycle pool_reset_on_return \
    pool_size pool_timeout pool_use_lifo poolclass prefer_simple_protocol preferQueryMode prepare_threshold \
    prepareThreshold preparedStatementCacheQueries prepared_statement_cache_size prepared_statement_name_func \
    prepared_statements query_cache_size query_timeout reaping_frequency reconnect record_class \
    reWriteBatchedInserts row_factory schema server_settings simple_protocol skip_autocommit_rollback \
    socket_timeout socketTimeout ssl_context sslaccept sslfactory sslidentity statement_cache_capacity \
    statement_cache_mode statement_cache_size statement_timeout stringtype targetServerType tcpKeepAlive timeout \
    uselibpqcompat use_insertmanyvalues use_native_hstore use_native_unicode";

/// libpq's parameters, and asyncpg's `ssl`.
const KNOWN: &str = "\
    application_name channel_binding client_encoding connect_timeout dbname fallback_application_name gssdelegation \
    gssencmode gsslib host hostaddr keepalives keepalives_count keepalives_idle keepalives_interval \
    keepalives_retries krbsrvname load_balance_hosts options passfile password port replication ssl sslcert \
    sslcertmode sslcompression sslkey ssl_max_protocol_version ssl_min_protocol_version sslmode sslnegotiation \
    sslpassword sslrootcert sslsni target_session_attrs tcp_user_timeout user";

/// Parameters that may be shown. Any other can hold a secret, or be a misspelt `password`.
pub(super) const SHOWN: &str = "\
    application_name channel_binding client_encoding connect_timeout dbname gssencmode host hostaddr keepalives \
    keepalives_count keepalives_idle keepalives_interval load_balance_hosts port ssl sslcert sslkey sslmode \
    sslnegotiation sslrootcert target_session_attrs tcp_user_timeout user";

pub(super) fn is_among(list: &str, name: &str) -> bool {
    list.split_whitespace().any(|listed| listed == name)
}

/// The known parameters, decoded, and the names of those that have no meaning here.
pub(super) fn parameters(
    query: &str,
    may_show: bool,
) -> Result<(BTreeMap<String, String>, Vec<String>), UrlProblem> {
    let (mut values, mut ignored) = (BTreeMap::<String, String>::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let text = |encoded: &str| {
            String::from_utf8(decode(encoded)?).map_err(|_| unreadable("a parameter is not UTF-8"))
        };
        let (name, value) = (text(name)?, text(value)?);
        if is_among(OF_OTHER_DRIVERS, &name) {
            ignored.push(name);
        } else if !is_among(KNOWN, &name) {
            let is_a_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
            if !may_show || !is_a_name || name.is_empty() || !pair.contains('=') {
                return Err(unreadable("something other than known parameters follows its ?"));
            }
            return Err(UrlProblem::new(
                format!("has the unknown parameter {name}"),
                "correct its name as libpq writes it (sslmode, connect_timeout, ...), or remove it",
            ));
        } else if matches!(name.as_str(), "host" | "port" | "hostaddr") {
            // repeated, as SQLAlchemy writes them: host=a:1&host=b:2
            let all = values.entry(name).or_default();
            if !all.is_empty() {
                all.push(',');
            }
            all.push_str(&value);
        } else {
            values.insert(name, value);
        }
    }
    Ok((values, ignored))
}

pub(super) fn whole_number(name: &str, value: Option<&str>) -> Result<Option<u64>, UrlProblem> {
    let read = |text: &str| {
        text.trim().parse::<i32>().map(|number| u64::try_from(number).unwrap_or(0)).map_err(|_| {
            UrlProblem::new(
                format!("has a {name} that is not a whole number"),
                format!("give {name} a whole number"),
            )
        })
    };
    value.map(read).transpose()
}

/// The value, which must be one of `values`; without a value, the first of them.
pub(super) fn one_of<'v>(
    name: &str,
    value: Option<&'v str>,
    values: &[&'v str],
) -> Result<&'v str, UrlProblem> {
    let Some(value) = value else { return Ok(values.first().copied().unwrap_or_default()) };
    if values.contains(&value) {
        return Ok(value);
    }
    let listed: Vec<&str> = values.iter().copied().filter(|value| !value.is_empty()).collect();
    Err(UrlProblem::new(
        format!("has a {name} that is not supported"),
        format!("give {name} one of {}, or remove it", listed.join(", ")),
    ))
}

/// Percent-encoding as libpq reads it: a + is a +.
pub(super) fn decode(text: &str) -> Result<Vec<u8>, UrlProblem> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) if high + low > 0 => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            }
            _ => return Err(unreadable("a % is not followed by two hexadecimal digits")),
        }
    }
    Ok(bytes)
}
