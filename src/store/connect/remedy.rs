//! Remedies for connections that fail.

/// What to do if there is no connection, by the words of the driver, and by the server's words or its SQLSTATE, as its
/// words may be in any language.
pub fn remedy(why: &str) -> &'static str {
    let has = |part: &str| why.contains(part);
    if has("SQLSTATE 28P01") {
        "correct user and password in DATABASE_URL; PostgreSQL does not say which of them is wrong"
    } else if has("no pg_hba.conf entry") || has("pg_hba.conf rejects") {
        "let pg_hba.conf take this user from this host, or set sslmode in DATABASE_URL as it asks for"
    } else if has("SQLSTATE 28000") && has("role \"") {
        "correct the user in DATABASE_URL, or create the role with a login (roles.sql)"
    } else if has("SQLSTATE 28000") {
        "let pg_hba.conf take this user from this host, set sslmode in DATABASE_URL as it asks for, or create the role \
         with a login (roles.sql)"
    } else if has("SQLSTATE 3D000") {
        "correct the database in DATABASE_URL, or create it with CREATE DATABASE"
    } else if has("SQLSTATE 42501") {
        "GRANT CONNECT ON DATABASE to this role"
    } else if has("SQLSTATE 53300") || has("no more connections allowed") {
        "end other connections, or raise the limit"
    } else if has("SQLSTATE 57P03") {
        "wait until PostgreSQL has started, or look at its log"
    } else if has("failed to lookup address") || has("Name or service not known") {
        "correct the host in DATABASE_URL, or the name server of this machine"
    } else if has("Connection refused") {
        "start PostgreSQL, or correct host and port in DATABASE_URL"
    } else if has("certificate") {
        "set sslrootcert in DATABASE_URL to the authority that signed the server's certificate, and the host to the \
         name that it is for"
    } else if has("server does not support TLS") {
        "turn ssl on in postgresql.conf, or lower sslmode in DATABASE_URL"
    } else if has("pooler") {
        "let the pooler keep one server connection for each client (pool_mode=session), or name PostgreSQL's own port"
    } else if has("did not answer") || has("no answer") || has("timed out") {
        "look whether PostgreSQL runs, whether a firewall lies between, and whether host and port are right"
    } else {
        "start PostgreSQL, or correct host, port, database, user, password or sslmode in DATABASE_URL"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_connection_has_its_own_remedy() {
        for (why, part) in [
            (
                "db error: FATAL: password authentication failed for user \"x\" (SQLSTATE 28P01)",
                "correct user and password",
            ),
            (
                "db error: FATAL: Passwort-Authentifizierung für Benutzer »x« fehlgeschlagen (SQLSTATE 28P01)",
                "correct user and password",
            ),
            ("db error: FATAL: role \"x\" does not exist (SQLSTATE 28000)", "correct the user"),
            ("db error: FATAL: Rolle »x« existiert nicht (SQLSTATE 28000)", "create the role"),
            ("db error: FATAL: database \"x\" does not exist (SQLSTATE 3D000)", "correct the database"),
            ("db error: FATAL: Datenbank »x« existiert nicht (SQLSTATE 3D000)", "correct the database"),
            (
                "db error: FATAL: no pg_hba.conf entry for host \"10.0.0.1\", user \"x\" (SQLSTATE 28000)",
                "set sslmode in DATABASE_URL as it asks for",
            ),
            ("db error: FATAL: kein pg_hba.conf-Eintrag für Host »10.0.0.1« (SQLSTATE 28000)", "pg_hba.conf"),
            ("db error: FATAL: keine Berechtigung für Datenbank »x« (SQLSTATE 42501)", "GRANT CONNECT"),
            ("db error: FATAL: the database system is starting up (SQLSTATE 57P03)", "has started"),
            ("error connecting to server: failed to lookup address information", "correct the host"),
            (
                "error connecting to server: Connection refused (os error 111)",
                "start PostgreSQL, or correct host",
            ),
            ("error performing TLS handshake: certificate verify failed", "sslrootcert"),
            ("error performing TLS handshake: server does not support TLS", "ssl on in postgresql.conf"),
            ("db error: FATAL: zu viele Verbindungen für Rolle »x« (SQLSTATE 53300)", "raise the limit"),
            (
                "db error: FATAL: no more connections allowed (max_client_conn) (SQLSTATE 08P01)",
                "raise the limit",
            ),
            ("the server did not answer within 10 s", "firewall"),
        ] {
            assert!(remedy(why).contains(part), "{why}: {}", remedy(why));
        }
    }
}
