//! A value that must not be shown: API keys. It can be used, and is never printed by accident.

use std::fmt;

/// A secret text. `Debug` and `Display` show a placeholder; [`Secret::expose`] is the one way to it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Secret(String);

/// What is shown in a secret's place.
pub const REDACTED: &str = "<redacted>";

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

/// `text` with the user and password of every URL in it replaced, for messages about a value that may hold them.
#[must_use]
pub fn without_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        out.push_str(before);
        let authority = after.find(['/', '?', '#', ' ', ',']).unwrap_or(after.len());
        rest = match after[..authority].rfind('@') {
            Some(at) => {
                out.push_str(REDACTED);
                &after[at..]
            }
            None => after,
        };
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_show_itself() {
        let secret = Secret::new("sk-very-secret");
        assert_eq!(format!("{secret:?} {secret} {:?}", Some(&secret)), "<redacted> <redacted> Some(<redacted>)");
        assert_eq!(secret.expose(), "sk-very-secret");
    }

    #[test]
    fn the_password_of_a_url_is_not_shown() {
        for (text, shown) in [
            ("http://gpu:8080/v1", "http://gpu:8080/v1"),
            ("ollama=http://me:pw@gpu:8080/v1", "ollama=http://<redacted>@gpu:8080/v1"),
            ("http://a@b, http://c:d@e/x@y", "http://<redacted>@b, http://<redacted>@e/x@y"),
            ("no url @ all", "no url @ all"),
        ] {
            assert_eq!(without_userinfo(text), shown);
        }
    }
}
