//! What an error says, whatever form it is told in.

use serde_json::Value;

/// What an error says, without its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Told {
    /// HTTP status.
    pub(crate) status: u16,
    /// One sentence for a person.
    pub(crate) message: String,
    /// OpenAI's `code`.
    pub(crate) code: Option<String>,
    /// The field that is wrong.
    pub(crate) param: Option<String>,
}

impl Told {
    /// The backend's fault.
    pub(crate) fn backend(message: impl Into<String>) -> Self {
        Self { status: 502, message: message.into(), code: Some("backend_error".to_owned()), param: None }
    }

    /// What OpenAI's envelope says; its status is `status`, unless it names one.
    pub(crate) fn of_openai(body: &[u8], status: u16) -> Self {
        let value: Value = serde_json::from_slice(body).unwrap_or_default();
        let error = &value["error"];
        let text = |field: &Value| field.as_str().map(str::to_owned);
        let message = text(&error["message"]).or_else(|| text(error)).or_else(|| text(&value["message"]));
        let named = [&error["status"], &error["code"]].into_iter().filter_map(Value::as_u64);
        let by_type = match error["type"].as_str() {
            Some("invalid_request_error") => Some(400),
            Some("rate_limit_error") => Some(429),
            Some("timeout_error") => Some(504),
            _ => None,
        };
        let named = named.filter_map(|status| u16::try_from(status).ok()).find(|status| (400..600).contains(status));
        Self {
            status: named.or(by_type).unwrap_or(status),
            message: message.unwrap_or_else(|| "the backend reports an error without saying which".to_owned()),
            code: text(&error["code"]),
            param: text(&error["param"]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_keeps_what_it_says() {
        let told =
            Told::of_openai(br#"{"error":{"message":"m","type":"rate_limit_error","code":"c","param":"p"}}"#, 502);
        assert_eq!((told.status, told.message.as_str()), (429, "m"));
        assert_eq!((told.code.as_deref(), told.param.as_deref()), (Some("c"), Some("p")));
        assert_eq!(Told::of_openai(br#"{"error":{"message":"m","code":503}}"#, 502).status, 503);
        assert_eq!(Told::of_openai(br#"{"error":"plain"}"#, 500).message, "plain");
        assert_eq!(Told::of_openai(b"<html>", 500).status, 500);
    }
}
