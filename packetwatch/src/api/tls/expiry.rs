//! When the certificate ends, and how often the log says so: clients tell nobody here why they stay
//! away.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use x509_parser::{certificate::X509Certificate, prelude::FromDer as _};

use crate::log::EVENT;

/// A certificate that ends within this time is due: whoever renews by machine does so 30 days before.
pub(super) const DUE: Duration = Duration::days(14);
/// How often a due one is told, and one that has ended.
const EVERY: [Duration; 2] = [Duration::DAY, Duration::HOUR];

/// How a certificate is at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    Valid,
    /// It ends within 14 days.
    Due,
    Ended,
}

impl Validity {
    pub(super) fn of(end: OffsetDateTime, now: OffsetDateTime) -> Self {
        match end - now {
            left if left <= Duration::ZERO => Self::Ended,
            left if left <= DUE => Self::Due,
            _ => Self::Valid,
        }
    }

    /// As `/v1/status` calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Due => "due",
            Self::Ended => "ended",
        }
    }
}

/// The end of the certificate itself; that of the chain behind it is its authority's to see to. `None`
/// for one that rustls can show and this cannot read.
pub(super) fn end_of(certificate: &CertificateDer<'_>) -> Option<OffsetDateTime> {
    let (_, read) = X509Certificate::from_der(certificate).ok()?;
    Some(read.validity().not_after.to_datetime())
}

/// What was told last: of which end, how it was, and when.
#[derive(Debug, Default)]
pub(super) struct Told(Option<(OffsetDateTime, Validity, OffsetDateTime)>);

impl Told {
    /// Whether to tell now of a certificate that ends then, and what.
    pub(super) fn due(&mut self, end: OffsetDateTime, now: OffsetDateTime) -> Option<Validity> {
        let validity = Validity::of(end, now);
        let every = match validity {
            Validity::Valid => return None,
            Validity::Due => EVERY[0],
            Validity::Ended => EVERY[1],
        };
        // Either way: the clock may have been set.
        let is_recent = |at: OffsetDateTime| (now - at).abs() < every;
        if matches!(self.0, Some((of, was, at)) if (of, was) == (end, validity) && is_recent(at)) {
            return None;
        }
        self.0 = Some((end, validity, now));
        Some(validity)
    }
}

/// In the log, what is due.
pub(super) fn tell(cert: &Path, end: OffsetDateTime, validity: Validity) {
    let at = end.format(&Rfc3339).unwrap_or_default();
    let shown = cert.display();
    match validity {
        Validity::Valid => {}
        Validity::Due => tracing::warn!(
            target: EVENT,
            {
                event.action = "certificate-due",
                file.path = %shown,
                tls.server.not_after = at,
            },
            "API: the certificate {shown} ends at {at}: renew it; it is read again when the file changes"
        ),
        Validity::Ended => tracing::error!(
            target: EVENT,
            {
                event.action = "certificate-ended",
                file.path = %shown,
                tls.server.not_after = at,
            },
            "API: the certificate {shown} has ended at {at}, so clients refuse it: renew it; it is read \
             again when the file changes"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_once_a_day_and_after_its_end_once_an_hour() {
        let end = OffsetDateTime::UNIX_EPOCH + Duration::days(400);
        let mut told = Told::default();
        let mut lines = Vec::new();
        // Looked at every five minutes, from twenty days before to two days after.
        let first = end - Duration::days(20);
        for n in 0..22 * 24 * 12 {
            let now = first + Duration::minutes(5 * n);
            lines.extend(told.due(end, now).map(|validity| (now - end, validity)));
        }
        let (due, ended): (Vec<_>, Vec<_>) = lines
            .into_iter()
            .partition(|(_, validity)| *validity == Validity::Due);
        assert_eq!((due.len(), ended.len()), (14, 48));
        assert_eq!((due[0].0, ended[0].0), (-DUE, Duration::ZERO));
    }

    #[test]
    fn another_certificate_and_a_clock_that_was_set_are_told_at_once() {
        let now = OffsetDateTime::UNIX_EPOCH + Duration::days(400);
        let mut told = Told::default();
        let ends = |days| now + Duration::days(days);
        assert_eq!(told.due(ends(15), now), None);
        assert_eq!(told.due(ends(14), now), Some(Validity::Due));
        assert_eq!(told.due(ends(14), now), None);
        assert_eq!(told.due(ends(13), now), Some(Validity::Due));
        assert_eq!(told.due(ends(13), ends(-1)), Some(Validity::Due));
        assert_eq!(told.due(ends(-1), now), Some(Validity::Ended));
    }

    #[test]
    fn what_is_no_certificate_has_no_end() {
        assert_eq!(end_of(&CertificateDer::from(vec![0x30, 0])), None);
    }
}
