//! Remedies for connections that fail.

/// What to do if there is no connection, by the words of the driver and the server.
pub fn remedy(why: &str) -> &'static str {
    let has = |part: &str| why.contains(part);
    if has("password authentication failed") {
        "correct user and password in DATABASE_URL; PostgreSQL does not say which of them is wrong"
    } else if has("role \"") && has("does not exist") {
        "correct the user in DATABASE_URL, or create the role (roles.sql)"
    } else if has("database \"") && has("does not exist") {
        "correct the database in DATABASE_URL, or create it with CREATE DATABASE"
    } else if has("no pg_hba.conf entry") || has("pg_hba.conf rejects") {
        "let pg_hba.conf take this user from this host, or set sslmode in DATABASE_URL as it asks for"
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
    } else if has("too many") || has("remaining connection slots") {
        "end other connections, or raise the limit"
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
            ("db error: FATAL: password authentication failed for user \"x\"", "correct user and password"),
            ("db error: FATAL: role \"x\" does not exist", "correct the user"),
            ("db error: FATAL: database \"x\" does not exist", "correct the database"),
            ("db error: FATAL: no pg_hba.conf entry for host \"10.0.0.1\"", "pg_hba.conf"),
            ("error connecting to server: failed to lookup address information", "correct the host"),
            (
                "error connecting to server: Connection refused (os error 111)",
                "start PostgreSQL, or correct host",
            ),
            ("error performing TLS handshake: certificate verify failed", "sslrootcert"),
            ("error performing TLS handshake: server does not support TLS", "ssl on in postgresql.conf"),
            ("db error: FATAL: too many connections for role \"x\"", "raise the limit"),
            ("the server did not answer within 10 s", "firewall"),
        ] {
            assert!(remedy(why).contains(part), "{why}: {}", remedy(why));
        }
    }
}
