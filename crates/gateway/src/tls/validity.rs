//! From when to when a certificate is good (RFC 5280, section 4.1.2.5).

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509CertificateParser;
use x509_parser::nom::Parser;
use x509_parser::time::ASN1Time;

/// What a certificate says of it. No handshake needs it here: it is for those who will be asked why there are none.
#[derive(Debug)]
pub(crate) struct Validity {
    begins: ASN1Time,
    ends: ASN1Time,
}

impl Validity {
    /// Nothing, if it cannot be read.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        // Extensions may hold anything, and are no matter here.
        let mut parser = X509CertificateParser::new().with_deep_parse_extensions(false);
        let (_, certificate) = parser.parse(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self { begins: validity.not_before, ends: validity.not_after })
    }

    /// Its last second, as Unix time.
    pub(crate) fn ends(&self) -> i64 {
        self.ends.timestamp()
    }

    /// What clients have against it at `now`, which is Unix time.
    pub(crate) fn fault(&self, now: i64) -> Option<String> {
        if now > self.ends() {
            Some(format!("it ended on {}, and clients refuse it", self.ends))
        } else if now < self.begins.timestamp() {
            Some(format!("it begins on {}, and until then clients refuse it", self.begins))
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    /// One that is good from the beginning of the year 2000 to that of `end`.
    fn certificate(end: (i32, u8, u8)) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.test".into()]).unwrap();
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = date_time_ymd(end.0, end.1, end.2);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn an_end_is_read_in_both_of_its_forms() {
        fn check(end: (i32, u8, u8), expect: i64) {
            assert_eq!(Validity::read(&certificate(end)).unwrap().ends(), expect, "{end:?}");
        }
        check((2000, 1, 2), 946_771_200);
        // Until here two digits are a year, and from here four.
        check((2049, 12, 31), 2_524_521_600);
        check((2050, 1, 1), 2_524_608_000);
        // One that has no end is said to have this one.
        check((9999, 12, 31), 253_402_214_400);
    }

    #[test]
    fn a_fault_is_told_from_the_first_second_to_the_last() {
        let validity = Validity::read(&certificate((2001, 1, 1))).unwrap();
        let check = |now: i64, expect: &str| {
            let fault = validity.fault(now).unwrap_or_default();
            assert!(fault.starts_with(expect) && fault.is_empty() == expect.is_empty(), "{now}: {fault}");
        };
        check(0, "it begins on Jan  1 00:00:00 2000 +00:00, ");
        check(946_684_799, "it begins on ");
        check(946_684_800, "");
        check(978_307_200, "");
        check(978_307_201, "it ended on Jan  1 00:00:00 2001 +00:00, ");
        check(i64::MAX, "it ended on ");
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        let whole = certificate((2030, 1, 1));
        for length in 0..whole.len() {
            assert!(Validity::read(&whole[..length].into()).is_none(), "{length} bytes of {}", whole.len());
        }
        // Each byte of a certificate may be any other: that is no reason to panic.
        for index in 0..whole.len() {
            for change in [1, 0x80, 0xff] {
                let mut other = whole.to_vec();
                other[index] ^= change;
                let _ = Validity::read(&other.into()).map(|validity| validity.fault(0));
            }
        }
    }
}
