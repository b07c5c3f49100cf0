//! Remarks about a configuration.

use std::fmt;

/// A field of a configuration that has no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// `section.field`.
    pub field: String,
    /// Why the field has no effect.
    pub text: &'static str,
    /// Whether the node behaves differently from what the field asks for. If not, nothing is missing.
    pub is_warning: bool,
}

impl Remark {
    pub(super) fn unknown(field: String) -> Self {
        Self { field, text: "not a field of KubeProxyConfiguration v1alpha1: ignored", is_warning: true }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "configuration: {}: {}", self.field, self.text)
    }
}
