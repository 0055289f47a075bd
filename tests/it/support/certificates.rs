//! Certificates made by a test.

use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Name, X509NameBuilder};

/// An authority that signs certificates.
pub struct Authority {
    key: PKey<Private>,
    certificate: X509,
}

/// A certificate and its key.
pub struct Signed {
    key: PKey<Private>,
    certificate: X509,
}

impl Authority {
    /// An authority that is valid for a month.
    pub fn new(name: &str) -> Authority {
        let key = key();
        let mut builder = builder(name, &key, (-1, 30));
        builder.set_issuer_name(&common_name(name)).unwrap();
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        Authority { certificate: builder.build(), key }
    }

    /// A certificate for this name, as common name and as host, valid between these days from now.
    pub fn sign(&self, name: &str, days: (i64, i64)) -> Signed {
        let key = key();
        let mut builder = builder(name, &key, days);
        builder.set_issuer_name(self.certificate.subject_name()).unwrap();
        let context = builder.x509v3_context(Some(&self.certificate), None);
        let names = SubjectAlternativeName::new().dns(name).build(&context).unwrap();
        builder.append_extension(names).unwrap();
        builder.sign(&self.key, MessageDigest::sha256()).unwrap();
        Signed { certificate: builder.build(), key }
    }

    /// The certificate of the authority.
    pub fn pem(&self) -> String {
        text(self.certificate.to_pem().unwrap())
    }
}

impl Signed {
    /// The certificate.
    pub fn pem(&self) -> String {
        text(self.certificate.to_pem().unwrap())
    }

    /// The key.
    pub fn key(&self) -> String {
        text(self.key.private_key_to_pem_pkcs8().unwrap())
    }

    /// Both, as Kafka's PEM key stores have them.
    pub fn key_and_certificate(&self) -> String {
        self.key() + &self.pem()
    }
}

fn key() -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap()
}

fn builder(name: &str, key: &PKey<Private>, days: (i64, i64)) -> X509Builder {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    let at = |days: i64| Asn1Time::from_unix(now + days * 86_400).unwrap();
    let mut serial = [0; 4];
    openssl::rand::rand_bytes(&mut serial).unwrap();
    let serial = BigNum::from_u32(u32::from_le_bytes(serial) >> 1).unwrap().to_asn1_integer().unwrap();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&common_name(name)).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&at(days.0)).unwrap();
    builder.set_not_after(&at(days.1)).unwrap();
    builder
}

fn common_name(text: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", text).unwrap();
    name.build()
}

fn text(pem: Vec<u8>) -> String {
    String::from_utf8(pem).unwrap()
}
