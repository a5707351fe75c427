//! What a candidate must be able to, and the sentence that says what it lacks.
//!
//! Only what is known counts against a candidate: an unknown context length is no rejection, and neither is
//! a feature whose absence does no harm (a backend that cannot stream still answers).

use crate::capability::{Capability, Feature, FeatureSet, Intent, Kind, ModalitySet, Operation};

use super::facts::Fact;

/// Features without which the answer would be wrong, not merely plainer. Providers that cannot ask their
/// backend claim them, so that a lack is something known.
const HARD: [Feature; 4] = [Feature::Tools, Feature::JsonSchema, Feature::Insert, Feature::Rag];

/// What a candidate must be able to, in the form in which thousands are checked.
#[derive(Debug, Clone)]
pub(super) struct Needs<'a> {
    operation: Operation,
    modalities: ModalitySet,
    features: FeatureSet,
    /// Prompt and answer together.
    tokens: u32,
    kind: Option<&'a Kind>,
}

impl<'a> Needs<'a> {
    /// What this intent needs of whoever runs it.
    pub(super) fn of(intent: &'a Intent) -> Self {
        let asked = &intent.requirements;
        Self {
            operation: intent.operation,
            modalities: asked.modalities,
            features: HARD.into_iter().filter(|feature| asked.features.contains(*feature)).collect(),
            tokens: asked.prompt_tokens.saturating_add(asked.max_output_tokens.unwrap_or(0)),
            kind: asked.kind.as_ref(),
        }
    }

    /// The same, and what an alias insists on.
    pub(super) fn and(mut self, features: FeatureSet, modalities: ModalitySet) -> Self {
        self.features = self.features.union(features);
        self.modalities = self.modalities.union(modalities);
        self
    }

    /// Whether the kind must be compared too, which [`meets`](Self::meets) does not.
    pub(super) fn kind(&self) -> Option<&Kind> {
        self.kind
    }

    /// Whether a candidate with these facts can do it, its kind aside.
    pub(super) fn meets(&self, fact: &Fact) -> bool {
        fact.operations.contains(self.operation)
            && self.modalities.missing_in(fact.modalities).is_empty()
            && self.features.missing_in(fact.features).is_empty()
            && (fact.context == 0 || fact.context >= self.tokens)
    }

    /// Why this capability cannot do it; `None` when it can.
    pub(super) fn why_not(&self, capability: &Capability) -> Option<String> {
        if !capability.operations.contains(self.operation) {
            let serves =
                if capability.operations.is_empty() { "nothing".to_owned() } else { capability.operations.to_string() };
            return Some(format!("it does not serve {}, only {serves}", self.operation));
        }
        if let Some(kind) = self.kind
            && *kind != capability.kind
        {
            return Some(format!("its kind is {}, not {kind}", capability.kind));
        }
        let unread = self.modalities.missing_in(capability.modalities);
        if !unread.is_empty() {
            return Some(format!("it cannot read {unread}"));
        }
        let lacking = self.features.missing_in(capability.features);
        if !lacking.is_empty() {
            return Some(format!("it lacks {lacking}"));
        }
        match capability.context_length {
            Some(context) if context != 0 && context < self.tokens => Some(format!(
                "its context of {context} tokens is less than the {} that prompt and answer need",
                self.tokens
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capability::Modality;
    use crate::router::testing::{chat_model, intent};

    #[test]
    fn each_lack_is_said_in_one_sentence() {
        let model = chat_model("small", 7);
        type Change = fn(&mut Intent);
        let table: [(Change, Option<&str>); 9] = [
            (|_| (), None),
            (|i| i.operation = Operation::Embed, Some("it does not serve embed, only chat")),
            (|i| i.requirements.kind = Some(Kind::LLM_CODE), Some("its kind is llm/chat, not llm/code")),
            (
                |i| i.requirements.modalities = ModalitySet::of(&[Modality::Text, Modality::Image]),
                Some("it cannot read image"),
            ),
            (|i| i.requirements.features = FeatureSet::of(&[Feature::Tools]), Some("it lacks tools")),
            (|i| i.requirements.features = FeatureSet::of(&[Feature::Streaming, Feature::Logprobs]), None),
            (|i| i.requirements.prompt_tokens = 4096, None),
            (
                |i| i.requirements.prompt_tokens = 9000,
                Some("its context of 4096 tokens is less than the 9000 that prompt and answer need"),
            ),
            (
                |i| (i.requirements.prompt_tokens, i.requirements.max_output_tokens) = (4000, Some(97)),
                Some("its context of 4096 tokens is less than the 4097 that prompt and answer need"),
            ),
        ];
        for (row, (change, reason)) in table.into_iter().enumerate() {
            let mut model = model.clone();
            model.context_length = Some(4096);
            let mut intent = intent(None);
            change(&mut intent);
            let needs = Needs::of(&intent);
            assert_eq!(needs.why_not(&model).as_deref(), reason, "row {row}");
            let kind_fits = needs.kind().is_none_or(|kind| *kind == model.kind);
            assert_eq!(needs.meets(&Fact::of(&model)) && kind_fits, reason.is_none(), "row {row}: both ways agree");
        }
    }

    #[test]
    fn an_unknown_context_length_is_no_rejection() {
        let mut intent = intent(None);
        intent.requirements.prompt_tokens = 1_000_000;
        let model = chat_model("unknown", 7);
        assert_eq!(model.context_length, None);
        assert_eq!(Needs::of(&intent).why_not(&model), None);
        assert!(Needs::of(&intent).meets(&Fact::of(&model)));
    }
}
