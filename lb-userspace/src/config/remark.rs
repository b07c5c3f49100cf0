//! What is to be said about a configuration.

use std::fmt;

/// Something that a configuration says and the agent does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// `section.field`.
    pub field: String,
    pub text: &'static str,
    /// The node behaves otherwise than the field asks. Where not, nothing is missing.
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
