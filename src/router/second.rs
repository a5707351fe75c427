//! What somebody else who was asked about a doubtful question said, as a decision tells it.

use super::decision::{Decision, Said, Second};
use super::reason::{percent, time};

impl Said {
    /// As one word.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Agreed => "agreed",
            Self::Late(_) => "late",
            Self::Failed(_) => "failed",
        }
    }
}

impl Second {
    /// What happened, as the end of a decision's sentence.
    fn sentence(&self) -> String {
        let who = format!("{} on {}", self.model, self.node_name);
        let first = self.first.as_ref().map_or_else(
            || "not sure".to_owned(),
            |taken| format!("only {} sure of {}", percent(taken.probability), taken.what),
        );
        match &self.said {
            Said::Changed => format!("{who} was asked, and changed it: this node by itself was {first}"),
            Said::Agreed => format!("{who} was asked, as this node was {first}, and it comes to the same"),
            Said::Late(limit) => {
                format!("{who} was asked, as this node was {first}, and said nothing within {}", time(*limit))
            }
            Said::Failed(why) => format!("{who} was asked in vain, as this node was {first}: {why}"),
        }
    }
}

impl Decision {
    /// Whether it comes to the same as another: the same capability, of whichever node, for the same reason.
    #[must_use]
    pub fn comes_to(&self, other: &Self) -> bool {
        let chosen =
            |decision: &Self| decision.candidates.first().map(|it| (it.capability.id.clone(), decision.abstained));
        chosen(self) == chosen(other)
    }

    /// The same, with what was said by whoever was asked.
    #[must_use]
    pub fn with_second(mut self, second: Second) -> Self {
        self.reason = format!("{}; {}", self.reason, second.sentence());
        self.second = Some(second);
        self
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capability::PeerId;
    use crate::router::Taken;

    #[test]
    fn the_sentence_says_who_was_asked_why_and_what_came_of_it() {
        let first = Taken { what: "farm/camelids".into(), probability: 0.27, ..Taken::default() };
        let second = |said| Second {
            node: PeerId::random(),
            node_name: "gpu".into(),
            model: "nomic-embed-text".into(),
            said,
            remembered: false,
            elapsed: Duration::from_millis(12),
            first: Some(first.clone()),
        };
        let told = |said| Decision { reason: "why".into(), ..Decision::default() }.with_second(second(said)).reason;
        assert_eq!(
            told(Said::Changed),
            "why; nomic-embed-text on gpu was asked, and changed it: this node by itself was only 27 % sure of farm/camelids"
        );
        assert!(told(Said::Agreed).ends_with("and it comes to the same"));
        assert!(told(Said::Late(Duration::from_millis(150))).ends_with("and said nothing within 150 ms"));
        assert!(told(Said::Failed("gone".into())).ends_with(": gone"));
    }
}
