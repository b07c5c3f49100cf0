//! Durations as Go writes them.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// `metav1.Duration`: read as Go reads it (`1h15m`, `500ms`), written as Go writes it (`15m0s`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl fmt::Display for GoDuration {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let (seconds, nanos) = (self.0.as_secs(), self.0.subsec_nanos());
        if seconds == 0 {
            let nanos = f64::from(nanos);
            return match nanos {
                0.0 => f.write_str("0s"),
                _ if nanos < 1e3 => write!(f, "{nanos}ns"),
                _ if nanos < 1e6 => write!(f, "{}µs", nanos / 1e3),
                _ => write!(f, "{}ms", nanos / 1e6),
            };
        }
        let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
        if hours > 0 {
            write!(f, "{hours}h")?;
        }
        if hours > 0 || minutes > 0 {
            write!(f, "{minutes}m")?;
        }
        write!(f, "{}", seconds % 60)?;
        if nanos > 0 {
            let digits = format!("{nanos:09}");
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let duration = kube::core::Duration::deserialize(deserializer)?;
        if duration.is_negative() {
            return Err(serde::de::Error::custom("the duration is negative"));
        }
        Ok(Self(duration.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_go_writes_them() {
        for (milliseconds, text) in [
            (0, "0s"),
            (1, "1ms"),
            (1500, "1.5s"),
            (30_000, "30s"),
            (60_000, "1m0s"),
            (900_000, "15m0s"),
            (3_600_000, "1h0m0s"),
            (86_400_000, "24h0m0s"),
            (3_661_010, "1h1m1.01s"),
        ] {
            let duration = GoDuration(Duration::from_millis(milliseconds));
            assert_eq!(duration.to_string(), text);
            assert_eq!(serde_json::from_str::<GoDuration>(&format!("\"{text}\"")).unwrap(), duration);
        }
        assert_eq!(GoDuration(Duration::from_nanos(1500)).to_string(), "1.5µs");
        assert_eq!(GoDuration(Duration::from_nanos(15)).to_string(), "15ns");
    }
}
