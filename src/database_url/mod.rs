//! `DATABASE_URL` as libpq reads it: `postgresql://user:password@host:port,host:port/database?parameter=value`.

mod parameters;
pub(crate) mod tls;

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, Config, Host, SslNegotiation};

use self::parameters::{SHOWN, decode, is_among, one_of, parameters, whole_number};
use self::tls::Tls;

/// Timeout of the connection to one address of a server.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// For `connect_timeout=0`: the operating system gives up by then.
const NO_CONNECT_TIMEOUT: Duration = Duration::from_secs(130);
/// A connection whose packets are not acknowledged is closed after this time.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle time before the first keepalive: shorter than the memory of a NAT or firewall.
const KEEPALIVES_IDLE: Duration = Duration::from_secs(30);

/// An example of a URL.
pub const EXAMPLE: &str = "postgresql://user:password@host:5432/database";

/// A problem of a URL. It quotes no part that can be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlProblem {
    /// The problem, to be read after `DATABASE_URL`: "has the unknown parameter x".
    pub problem: String,
    /// The remedy.
    pub remedy: String,
}

impl UrlProblem {
    pub(crate) fn new(problem: impl Into<String>, remedy: impl Into<String>) -> UrlProblem {
        UrlProblem { problem: problem.into(), remedy: remedy.into() }
    }
}

impl std::fmt::Display for UrlProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

pub(crate) fn unreadable(why: &str) -> UrlProblem {
    UrlProblem::new(
        format!("is not a URL ({why})"),
        format!("write it like {EXAMPLE}, with %40 for @, %2F for /, %3A for : and %25 for % in a password"),
    )
}

/// libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attrs {
    /// Not given: of several servers one that takes writes, if there is one.
    Unset,
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    PreferStandby,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerAddress {
    pub host: Host,
    pub address: Option<IpAddr>,
    pub port: u16,
}

impl std::fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (&self.host, self.address) {
            (Host::Unix(path), _) => write!(f, "{}", path.display()),
            (Host::Tcp(name), Some(address)) if name.parse::<IpAddr>() != Ok(address) => {
                write!(f, "{name}:{} ({address})", self.port)
            }
            (Host::Tcp(name), _) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// A parsed URL.
#[derive(Debug, Clone)]
pub(crate) struct ParsedUrl {
    pub places: Vec<ServerAddress>,
    /// Whether `load_balance_hosts=random`.
    pub shuffled: bool,
    pub attrs: Attrs,
    /// Everything but the places and TLS.
    pub config: Config,
    pub passfile: Option<PathBuf>,
    pub tls: Tls,
    /// Parameters that only another driver knows.
    pub ignored: Vec<String>,
}

/// Checks a URL without contacting anybody, and returns the names of the ignored parameters. The error has a problem
/// and its remedy, and never holds a secret.
pub fn check(url: &str) -> Result<Vec<String>, String> {
    parse(url).map(|target| target.ignored).map_err(|problem| problem.to_string())
}

/// As [`check`], with the problem and its remedy as separate texts.
pub fn problem(url: &str) -> Result<(), UrlProblem> {
    parse(url).map(drop)
}

/// The parts of a URL, still encoded.
struct Parts<'u> {
    user: Option<&'u str>,
    password: Option<&'u str>,
    hosts: &'u str,
    database: &'u str,
    query: &'u str,
}

fn split(url: &str) -> Result<Parts<'_>, UrlProblem> {
    let Some((scheme, rest)) = url.trim().split_once("://") else { return Err(unreadable("it has no ://")) };
    let (scheme, _driver) = scheme.split_once('+').unwrap_or((scheme, ""));
    if !matches!(scheme.to_ascii_lowercase().as_str(), "postgres" | "postgresql") {
        return Err(UrlProblem::new(
            "is not a URL of PostgreSQL",
            format!("begin it with postgresql://, like {EXAMPLE}"),
        ));
    }
    // credentials end at the first @, unless a / comes before it
    let (credentials, rest) = match rest.split_once('@') {
        Some((credentials, rest)) if !credentials.contains('/') => (Some(credentials), rest),
        _ => (None, rest),
    };
    let (user, password) = match credentials.map(|text| text.split_once(':').ok_or(text)) {
        None => (None, None),
        Some(Ok((user, password))) => (Some(user), Some(password)),
        Some(Err(user)) => (Some(user), None),
    };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    if hosts.contains('@') || database.contains(['@', '/']) {
        return Err(unreadable("it has an @ or a / too many"));
    }
    Ok(Parts { user, password, hosts, database, query })
}

pub(crate) fn parse(url: &str) -> Result<ParsedUrl, UrlProblem> {
    let parts = split(url)?;
    // an @ after the host may be the end of a password that contains a /: no later part is shown then
    let may_show = !parts.query.contains('@');
    let (values, ignored) = parameters(parts.query, may_show)?;
    let get = |name: &str| values.get(name).map(String::as_str).filter(|value| !value.is_empty());

    let places = places(parts.hosts, get("host"), get("hostaddr"), get("port"))?;
    let mut config = Config::new();
    let text = |encoded: &str, what: &str| {
        String::from_utf8(decode(encoded)?).map_err(|_| unreadable(&format!("its {what} is not UTF-8")))
    };
    let user = parts.user.filter(|user| !user.is_empty()).map(|user| text(user, "user")).transpose()?;
    if let Some(user) = get("user").map(str::to_owned).or(user) {
        config.user(user);
    }
    let password = parts.password.filter(|password| !password.is_empty()).map(decode).transpose()?;
    if let Some(password) = get("password").map(|text| text.as_bytes().to_vec()).or(password) {
        config.password(password);
    }
    let database = Some(text(parts.database, "database")?).filter(|name| !name.is_empty());
    if let Some(database) = get("dbname").map(str::to_owned).or(database) {
        config.dbname(database);
    }
    if let Some(options) = get("options") {
        config.options(options);
    }
    let name = get("application_name").or(get("fallback_application_name")).unwrap_or("voiceclone-events");
    config.application_name(name);

    let number = |name: &str| whole_number(name, get(name));
    config.connect_timeout(match number("connect_timeout")? {
        None => CONNECT_TIMEOUT,
        Some(0) => NO_CONNECT_TIMEOUT,
        Some(seconds) => Duration::from_secs(seconds),
    });
    config.tcp_user_timeout(number("tcp_user_timeout")?.map_or(TCP_USER_TIMEOUT, Duration::from_millis));
    config.keepalives(number("keepalives")? != Some(0));
    config.keepalives_idle(
        number("keepalives_idle")?.filter(|s| *s > 0).map_or(KEEPALIVES_IDLE, Duration::from_secs),
    );
    if let Some(seconds) = number("keepalives_interval")?.filter(|seconds| *seconds > 0) {
        config.keepalives_interval(Duration::from_secs(seconds));
    }
    let count = number("keepalives_count")?.or(number("keepalives_retries")?);
    if let Some(count) = count.and_then(|count| u32::try_from(count).ok()).filter(|count| *count > 0) {
        config.keepalives_retries(count);
    }

    let binding = ["prefer", "disable", "require"];
    config.channel_binding(match one_of("channel_binding", get("channel_binding"), &binding)? {
        "disable" => ChannelBinding::Disable,
        "require" => ChannelBinding::Require,
        _ => ChannelBinding::Prefer,
    });
    if one_of("sslnegotiation", get("sslnegotiation"), &["postgres", "direct"])? == "direct" {
        config.ssl_negotiation(SslNegotiation::Direct);
    }
    let shuffled =
        one_of("load_balance_hosts", get("load_balance_hosts"), &["disable", "random"])? == "random";
    let attrs = ["", "any", "read-write", "read-only", "primary", "standby", "prefer-standby"];
    let attrs = match one_of("target_session_attrs", get("target_session_attrs"), &attrs)? {
        "any" => Attrs::Any,
        "read-write" => Attrs::ReadWrite,
        "read-only" => Attrs::ReadOnly,
        "primary" => Attrs::Primary,
        "standby" => Attrs::Standby,
        "prefer-standby" => Attrs::PreferStandby,
        _ => Attrs::Unset,
    };
    // accepted, as they ask for what happens anyway
    one_of("gssencmode", get("gssencmode"), &["disable", "prefer"])?;
    one_of("replication", get("replication"), &["false", "off", "no", "0"])?;
    one_of("sslcompression", get("sslcompression"), &["0", "1"])?;
    let encoding = get("client_encoding").map(|name| name.to_ascii_lowercase().replace(['-', '_'], ""));
    if !matches!(encoding.as_deref(), None | Some("utf8" | "unicode" | "auto")) {
        return Err(UrlProblem::new("has a client_encoding other than utf8", "remove it"));
    }
    let tls = Tls::new(&get, places.iter().all(|place| !matches!(place.host, Host::Tcp(_))))?;
    Ok(ParsedUrl {
        places,
        shuffled,
        attrs,
        config,
        passfile: get("passfile").map(PathBuf::from),
        tls,
        ignored,
    })
}

/// The servers, in order. `host`, `hostaddr` and `port` are parameters of the URL, which take precedence.
fn places(
    hosts: &str,
    host: Option<&str>,
    hostaddr: Option<&str>,
    port: Option<&str>,
) -> Result<Vec<ServerAddress>, UrlProblem> {
    let mut names: Vec<(String, Option<String>)> = Vec::new();
    match host {
        Some(list) => {
            for name in list.split(',') {
                names.push(if name.starts_with('/') {
                    (name.to_owned(), None)
                } else {
                    host_and_port(name)?
                });
            }
        }
        None if hosts.is_empty() => {}
        None => {
            for name in hosts.split(',') {
                let (name, port) = host_and_port(name)?;
                let name =
                    String::from_utf8(decode(&name)?).map_err(|_| unreadable("its host is not UTF-8"))?;
                names.push((name, port));
            }
        }
    }
    let addresses: Vec<Option<IpAddr>> = match hostaddr {
        None => vec![None; names.len()],
        Some(list) => list
            .split(',')
            .map(|text| text.parse().map(Some).map_err(|_| unreadable("its hostaddr is not an IP address")))
            .collect::<Result<_, _>>()?,
    };
    if names.is_empty() {
        names = addresses.iter().flatten().map(|address| (address.to_string(), None)).collect();
    }
    if names.is_empty() || names.iter().any(|(name, _)| name.is_empty()) {
        return Err(unreadable("it names no host"));
    }
    let ports: Vec<&str> = port.map(|list| list.split(',').collect()).unwrap_or_default();
    if names.len() != addresses.len() || !matches!(ports.len(), 0 | 1) && ports.len() != names.len() {
        return Err(unreadable("host, hostaddr and port are lists of different lengths"));
    }
    let mut places = Vec::new();
    for (at, ((name, own), address)) in names.into_iter().zip(addresses).enumerate() {
        let listed = ports.get(at).or(ports.first()).map(|port| (*port).to_owned());
        let port = match own.or(listed).filter(|port| !port.is_empty()) {
            None => 5432,
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| unreadable("a port is not a number from 1 to 65535"))?,
        };
        let host = if name.starts_with('/') {
            Host::Unix(PathBuf::from(name))
        } else if name.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%')) {
            Host::Tcp(name)
        } else {
            return Err(unreadable("a host's name has a character that is not allowed in names"));
        };
        places.push(ServerAddress { host, address, port });
    }
    Ok(places)
}

fn host_and_port(text: &str) -> Result<(String, Option<String>), UrlProblem> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return Err(unreadable("a [ has no ]")) };
        let port = rest.strip_prefix(':');
        if port.is_none() && !rest.is_empty() {
            return Err(unreadable("a host's ] is followed by something other than a port"));
        }
        return Ok((address.to_owned(), port.map(str::to_owned)));
    }
    Ok(match text.split_once(':') {
        Some((name, port)) => (name.to_owned(), Some(port.to_owned())),
        None => (text.to_owned(), None),
    })
}

/// The URL with its secrets hidden; `None` if it cannot be read.
pub fn shown(url: &str) -> Option<String> {
    parse(url).ok()?;
    let (scheme, _) = url.trim().split_once("://")?;
    let Parts { user, password, hosts, database, query } = split(url).ok()?;
    let mut shown = format!("{scheme}://");
    if let Some(user) = user {
        shown.push_str(user);
        shown.push_str(if password.is_some_and(|password| !password.is_empty()) { ":***@" } else { "@" });
    }
    shown.push_str(hosts);
    if !database.is_empty() || hosts.is_empty() {
        shown.push('/');
        shown.push_str(database);
    }
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        shown.push(if at == 0 { '?' } else { '&' });
        match pair.split_once('=') {
            Some((name, _)) if !is_among(SHOWN, name) => shown.push_str(&format!("{name}=***")),
            _ => shown.push_str(pair),
        }
    }
    Some(shown)
}

#[cfg(test)]
mod tests;
