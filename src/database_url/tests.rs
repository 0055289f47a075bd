#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::tls::TlsMode;
use super::*;

fn mode(query: &str) -> (TlsMode, Option<String>) {
    let target = parse(&format!("postgresql://u:p@db:5432/voice_clones{query}")).unwrap();
    (target.tls.mode, target.tls.root)
}

fn refusal(url: &str) -> String {
    check(url).expect_err("should have been refused")
}

fn places(url: &str) -> Vec<String> {
    parse(url).unwrap().places.iter().map(ToString::to_string).collect()
}

#[test]
fn sslmode_means_what_it_means_to_libpq() {
    assert_eq!(mode(""), (TlsMode::Prefer, None));
    assert_eq!(mode("?sslmode=disable"), (TlsMode::Disable, None));
    assert_eq!(mode("?sslmode=allow"), (TlsMode::Allow, None));
    assert_eq!(mode("?sslmode=require"), (TlsMode::Require, None));
    assert_eq!(mode("?ssl=require"), (TlsMode::Require, None));
    assert_eq!(mode("?ssl=true"), (TlsMode::Require, None));
    assert_eq!(mode("?sslmode=require&sslrootcert=/ca.pem"), (TlsMode::VerifyCa, Some("/ca.pem".into())));
    assert_eq!(mode("?sslrootcert=%2Fa%20b%2Bc+d&sslmode=verify-full").1.unwrap(), "/a b+c+d");
    assert_eq!(mode("?sslmode=verify-full"), (TlsMode::VerifyFull, None));
    assert_eq!(mode("?sslrootcert=system"), (TlsMode::VerifyFull, None));
}

#[test]
fn what_is_wrong_is_named_and_the_password_is_not() {
    for (url, named) in [
        ("postgresql://u:geheim@db/x?sslmode=verify_full", "sslmode"),
        ("postgresql://u:geheim@db/x?sslmode=true", "sslmode"),
        ("postgresql://u:geheim@db/x?ssl=yes", "ssl"),
        ("postgresql://u:geheim@db/x?sslrootcert=system&sslmode=require", "sslmode"),
        ("postgresql://u:geheim@db/x?sslkey=/k", "sslkey"),
        ("postgresql://u:geheim@db:port/x", "port"),
        ("postgresql://u:geheim@db:0/x", "port"),
        ("postgresql://u:geheim@a:1,b:2/x?port=1,2,3", "port"),
        ("mysql://u:geheim@db/x", "postgresql://"),
        ("postgresql:///x", "host"),
        ("postgresql://u:geheim@a,,b/x", "host"),
        ("postgresql://u:geheim@db/x?sslmod=require", "unknown parameter sslmod"),
        ("postgresql://u:geheim@db/x?connect_timeout=soon", "connect_timeout"),
        ("postgresql://u:geheim@db/x?target_session_attrs=master", "target_session_attrs"),
        ("postgresql://u:geheim@db/x?client_encoding=latin1", "client_encoding"),
        ("postgresql://u:geheim@db/x?gssencmode=require", "gssencmode"),
        ("postgresql://u:geheim@db/x?channel_binding=yes", "channel_binding"),
        ("postgresql://u:geheim@db/x?sslcrl=/crl", "sslcrl"),
        ("postgresql://u:%zzgeheim@db/x", "%"),
        ("postgresql://u:geheim@[::1/x", "["),
        // where a password is not encoded, no part of it is shown
        ("postgresql://u:geheim", "port"),
        ("postgresql://u:p@geheim@db/x", "%40"),
        ("postgresql://u:geheim/geheim@db/x", "%2F"),
        ("postgresql://u:1/x?geheim=geheim@db/x", "%40"),
        ("postgresql://u:1/x?geheim", "parameters"),
    ] {
        let text = refusal(url);
        assert!(text.contains(named) && !text.contains("geheim"), "{url}: {text}");
    }
}

#[test]
fn the_rest_of_the_url_reaches_the_driver() {
    let url = "postgresql://us%40er:p%3Fw?1@a,b:5433/voice_clones?ssl=require&application_name=x&connect_timeout=2\
               &tcp_user_timeout=1500&keepalives_idle=7&options=-c%20geqo=off&channel_binding=require";
    let config = parse(url).unwrap().config;
    assert_eq!(config.get_user(), Some("us@er"));
    assert_eq!(config.get_password(), Some("p?w?1".as_bytes()));
    assert_eq!(places(url), ["a:5432", "b:5433"]);
    assert_eq!(config.get_dbname(), Some("voice_clones"));
    assert_eq!(config.get_application_name(), Some("x"));
    assert_eq!(config.get_options(), Some("-c geqo=off"));
    assert_eq!(config.get_connect_timeout(), Some(&Duration::from_secs(2)));
    assert_eq!(config.get_tcp_user_timeout(), Some(&Duration::from_millis(1500)));
    assert_eq!(config.get_keepalives_idle(), Duration::from_secs(7));
    assert_eq!(config.get_channel_binding(), ChannelBinding::Require);
}

#[test]
fn several_servers_are_written_in_each_of_the_ways_that_are_in_use() {
    assert_eq!(
        places("postgresql://u:p@h1:5432,h2:5433/d?target_session_attrs=read-write"),
        ["h1:5432", "h2:5433"]
    );
    assert_eq!(places("postgresql://u:p@/d?host=h1:5432&host=h2:5433"), ["h1:5432", "h2:5433"]);
    assert_eq!(places("postgresql://u:p@/d?host=h1,h2&port=1,2"), ["h1:1", "h2:2"]);
    assert_eq!(places("postgresql://u:p@h1,h2/d?port=7"), ["h1:7", "h2:7"]);
    assert_eq!(places("postgresql://[::1]:1,[fe80::2]/d"), ["::1:1", "fe80::2:5432"]);
    assert_eq!(places("postgresql://name/d?hostaddr=10.0.0.1"), ["name:5432 (10.0.0.1)"]);
    for (text, attrs) in [
        ("any", Attrs::Any),
        ("read-write", Attrs::ReadWrite),
        ("read-only", Attrs::ReadOnly),
        ("primary", Attrs::Primary),
        ("standby", Attrs::Standby),
        ("prefer-standby", Attrs::PreferStandby),
    ] {
        let url = format!("postgresql://h/d?target_session_attrs={text}");
        assert_eq!(parse(&url).unwrap().attrs, attrs);
    }
}

#[test]
fn what_the_url_leaves_open_has_defaults() {
    let target = parse("postgres://u@db/x").unwrap();
    assert_eq!(target.config.get_application_name(), Some("voiceclone-events"));
    assert_eq!(target.config.get_connect_timeout(), Some(&CONNECT_TIMEOUT));
    assert_eq!(target.config.get_tcp_user_timeout(), Some(&TCP_USER_TIMEOUT));
    assert!(target.config.get_keepalives());
    assert_eq!(target.config.get_keepalives_idle(), KEEPALIVES_IDLE);
    assert_eq!(target.attrs, Attrs::Unset);
}

#[test]
fn parameters_of_other_drivers_are_named_and_ignored() {
    let url = "postgresql+asyncpg://u:p@h/d?prepared_statement_cache_size=0&ssl=disable&prepared_statement_name_func=f\
               &server_settings=x&pool_size=5&max_overflow=10&async_fallback=true&statement_cache_size=0";
    let ignored = check(url).unwrap();
    assert_eq!(
        ignored,
        [
            "prepared_statement_cache_size",
            "prepared_statement_name_func",
            "server_settings",
            "pool_size",
            "max_overflow",
            "async_fallback",
            "statement_cache_size"
        ]
    );
    let accepted = "postgresql://h/d?gssencmode=disable&client_encoding=utf8&sslcompression=0&keepalives=1";
    assert_eq!(check(accepted), Ok(Vec::new()));
}

#[test]
fn a_unix_socket_has_no_tls() {
    for url in ["postgresql://u@%2Ftmp/x?sslmode=verify-full", "postgresql://u@/x?host=/tmp&sslmode=require"]
    {
        let target = parse(url).unwrap();
        assert_eq!(target.tls.mode, TlsMode::Disable);
        assert_eq!(target.places[0].host, Host::Unix("/tmp".into()));
    }
}

#[test]
fn a_url_is_shown_without_its_secrets() {
    for (url, expected) in [
        ("postgresql://u:p@h1:1,h2:2/d?sslmode=require", "postgresql://u:***@h1:1,h2:2/d?sslmode=require"),
        (
            "postgresql://h/d?password=p&sslpassword=q&options=o",
            "postgresql://h/d?password=***&sslpassword=***&options=***",
        ),
    ] {
        assert_eq!(shown(url).unwrap(), expected);
    }
    assert_eq!(shown("postgresql://u:p@geheim@h/d"), None);
}
