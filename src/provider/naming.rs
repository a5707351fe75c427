//! What a model's name tells about it, and words for what it is good at.
//!
//! Most servers tell no more of a model than its name. The tables here are the only place where names are
//! guessed from; what a server says itself always goes before them.

use crate::capability::{Capability, Feature, FeatureSet, Kind, Modality, Operation, OperationSet};

/// What a model's name stands for: `(words, role)`, the first row that has a word in the name wins.
///
/// A word matches a whole part of the name (parts are separated by anything but letters and digits); one that
/// ends in `*` matches the beginning of a part, and one with a `-` in it any place of the name.
const ROLES: &[(&[&str], Role)] = &[
    // Neither answers anything that this program asks for.
    (&["rerank*", "moderation", "realtime", "sora", "babbage", "davinci"], Role::Unserved),
    (
        &["embed*", "bge", "e5", "gte", "minilm", "mxbai", "arctic-embed", "nomic-embed", "sentence-t5", "labse"],
        Role::Embed,
    ),
    (&["whisper*", "transcribe", "parakeet", "canary", "moonshine", "distil-large"], Role::Transcribe),
    (&["tts", "kokoro*", "piper", "bark", "xtts", "orpheus", "speecht5"], Role::Speak),
    (
        &[
            "dall-e",
            "flux*",
            "sdxl*",
            "sd3*",
            "stable-diffusion",
            "stablediffusion",
            "gpt-image",
            "imagen*",
            "qwen-image",
        ],
        Role::Image,
    ),
    (&["guard*", "shieldgemma", "shield"], Role::Unserved),
    (
        &[
            "coder*",
            "code*",
            "codestral*",
            "starcoder*",
            "devstral*",
            "wizardcoder*",
            "codex*",
            "sqlcoder",
            "deepcoder*",
        ],
        Role::Code,
    ),
    (
        &["r1", "qwq", "reason*", "think*", "o1", "o3", "o4", "magistral", "marco-o1", "deepscaler", "openthinker*"],
        Role::Reason,
    ),
    (&["summar*", "bart", "pegasus"], Role::Summarise),
];

/// Names of chat models that read images, where their server does not tell.
const SEEING: &[&str] = &[
    "llava*",
    "bakllava",
    "vl",
    "vision",
    "pixtral*",
    "moondream*",
    "minicpm-v",
    "qwen2-5vl",
    "qwen3-vl",
    "gemma3",
    "gemma-3",
    "gpt-4o",
    "gpt-4-1",
    "gpt-5*",
    "internvl*",
    "smolvlm*",
    "mllama",
];

/// Names of chat models that think when they are asked to, where their server does not tell, beside those that are for it.
const THINKING: &[&str] = &[
    "gpt-5*",
    "gpt-oss*",
    "qwen3",
    "deepseek-v3-1*",
    "deepseek-v3-2*",
    "deepseek-v4*",
    "glm-4-5*",
    "glm-4-6*",
    "glm-4-7*",
    "glm-5*",
    "kimi-k2*",
    "minimax-m*",
    "nemotron*",
    "grok-4*",
    "grok-3-mini*",
    "gemini-2-5*",
    "gemini-3*",
    "claude*",
    "cogito*",
    "exaone-deep*",
    "phi-4-mini-reasoning",
];

/// Versions of these that do not.
const UNTHINKING: &[&str] = &["instruct*", "coder*", "vl", "embed*", "chat-latest"];

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// General conversation.
    Chat,
    /// Programming.
    Code,
    /// Thinking before answering.
    Reason,
    /// Summaries.
    Summarise,
    /// Text to vector.
    Embed,
    /// Speech to text.
    Transcribe,
    /// Text to speech.
    Speak,
    /// Text to image.
    Image,
    /// Something that no operation here asks for; such a model is left out.
    Unserved,
}

impl Role {
    /// The role that a model's name stands for.
    pub(crate) fn of_name(name: &str) -> Self {
        let name = Name::new(name);
        ROLES.iter().find(|(words, _)| name.has_any(words)).map_or(Self::Chat, |(_, role)| *role)
    }

    /// Whether it writes text.
    pub(crate) const fn writes_text(self) -> bool {
        matches!(self, Self::Chat | Self::Code | Self::Reason | Self::Summarise)
    }

    /// Its kind of capability.
    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::Chat | Self::Unserved => Kind::LLM_CHAT,
            Self::Code => Kind::LLM_CODE,
            Self::Reason => Kind::LLM_REASONING,
            Self::Summarise => Kind::LLM_SUMMARIZE,
            Self::Embed => Kind::LLM_EMBED,
            Self::Transcribe => Kind::AUDIO_TRANSCRIBE,
            Self::Speak => Kind::AUDIO_GENERATE,
            Self::Image => Kind::VISION_GENERATE,
        }
    }

    /// The operations of OpenAI's API that such a model serves.
    pub(crate) fn operations(self) -> OperationSet {
        OperationSet::of(match self {
            Self::Chat | Self::Code | Self::Reason | Self::Summarise => &[Operation::Chat, Operation::Complete],
            Self::Embed => &[Operation::Embed],
            Self::Transcribe => &[Operation::Transcribe],
            Self::Speak => &[Operation::Speak],
            Self::Image => &[Operation::GenerateImage],
            Self::Unserved => &[],
        })
    }
}

/// A capability for a model of which the name and the role are known: kind, operations, size, quantisation and
/// words, ready for what the server knows better.
pub(crate) fn capability(provider: &str, name: &str, role: Role) -> Capability {
    let mut capability = Capability::new(provider, role.kind(), name);
    capability.operations = role.operations();
    capability.parameter_count = parameter_count(name);
    capability.quantization = quantization(name);
    if let Some(bare) = name.rsplit('/').next().filter(|bare| *bare != name && !bare.is_empty()) {
        capability.aliases.push(bare.to_owned());
    }
    if role.writes_text() {
        capability.features = FeatureSet::of(&[Feature::Streaming]);
    }
    if role == Role::Transcribe {
        capability.modalities = crate::capability::ModalitySet::of(&[Modality::Audio]);
    }
    capability
}

/// Whether a chat model of this name reads images.
pub(crate) fn sees(name: &str) -> bool {
    let parsed = Name::new(name);
    // The smallest Gemma 3 are the ones without eyes.
    let blind = parsed.has_any(&["gemma3", "gemma-3"]) && parsed.has_any(&["1b", "270m"]);
    parsed.has_any(SEEING) && !blind
}

/// Whether a chat model of this name thinks when it is asked to.
pub(crate) fn thinks(name: &str) -> bool {
    let parsed = Name::new(name);
    parsed.has_any(THINKING) && !parsed.has_any(UNTHINKING)
}

/// Fills in the natural-language side, which is what meaning is matched against. Needs modalities and features
/// to be set.
pub(crate) fn describe(capability: &mut Capability, role: Role, domain: Option<&str>) {
    let words = words(role);
    let name = &capability.name;
    let mut description = format!("{} {name}.", words.sentence);
    if role.writes_text() && capability.modalities.contains(Modality::Image) {
        description
            .push_str(" It also looks at pictures: describes images, reads charts, screenshots and scanned text.");
    }
    if let Some(domain) = domain {
        description = format!("{description} Its field is {domain}.");
    }
    capability.description = description;
    capability.topics = words.topics.iter().map(|&topic| topic.to_owned()).collect();
    capability.examples = words.examples.iter().map(|&example| example.to_owned()).collect();
    if let Some(domain) = domain {
        capability.topics.insert(0, domain.to_owned());
    }
    capability.domain = domain.or(words.domain).map(str::to_owned);
}

struct Words {
    domain: Option<&'static str>,
    sentence: &'static str,
    topics: &'static [&'static str],
    examples: &'static [&'static str],
}

fn words(role: Role) -> Words {
    match role {
        Role::Chat | Role::Unserved => Words {
            domain: None,
            sentence: "General conversation: answers questions, explains, writes, translates and helps with everyday tasks, by",
            topics: &["general knowledge", "conversation", "writing", "translation"],
            examples: &["Tell me about the history of Rome", "Write a friendly birthday message"],
        },
        Role::Code => Words {
            domain: Some("programming"),
            sentence: "Programming: writes, explains, reviews, tests and debugs source code in Rust, Python, JavaScript, C++, SQL and other languages, by",
            topics: &["programming", "source code", "software development", "debugging", "algorithms"],
            examples: &[
                "Write a function that sorts a list in Python",
                "Implement a binary search tree in Rust",
                "Why does this code not compile?",
                "Refactor this class and add unit tests",
                "Write a SQL query that joins two tables",
                "Fix the bug in this JavaScript function",
            ],
        },
        Role::Reason => Words {
            domain: None,
            sentence: "Reasoning: thinks step by step through mathematics, logic, science and planning problems, by",
            topics: &["reasoning", "mathematics", "logic", "proofs", "planning"],
            examples: &[
                "Prove that the square root of two is irrational",
                "Solve this equation and show every step",
                "Three people tell different stories; who is lying?",
            ],
        },
        Role::Summarise => Words {
            domain: None,
            sentence: "Summaries: condenses long texts, articles and documents to their main points, by",
            topics: &["summary", "abstract", "key points"],
            examples: &["Summarise this article in three sentences"],
        },
        Role::Embed => Words {
            domain: None,
            sentence: "Text embeddings: turns text into vectors for search, clustering and similarity, by",
            topics: &["embeddings", "semantic search", "similarity"],
            examples: &[],
        },
        Role::Transcribe => Words {
            domain: None,
            sentence: "Speech recognition: turns recordings of speech into text, by",
            topics: &["transcription", "speech to text", "subtitles"],
            examples: &["Transcribe this recording"],
        },
        Role::Speak => Words {
            domain: None,
            sentence: "Speech synthesis: reads text aloud in a natural voice, by",
            topics: &["text to speech", "voice", "narration"],
            examples: &["Read this text aloud"],
        },
        Role::Image => Words {
            domain: None,
            sentence: "Image generation: paints pictures, illustrations and photos from a description, by",
            topics: &["image generation", "illustration", "art"],
            examples: &["Draw a lighthouse at sunset"],
        },
    }
}

/// A name as the tables read it: lower case, with `-` around and between its parts.
struct Name(String);

impl Name {
    fn new(name: &str) -> Self {
        let mut parts = String::from("-");
        for part in name.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|part| !part.is_empty()) {
            parts.push_str(part);
            parts.push('-');
        }
        Self(parts)
    }

    fn has_any(&self, words: &[&str]) -> bool {
        words.iter().any(|word| match word.strip_suffix('*') {
            Some(start) => self.0.contains(&format!("-{start}")),
            None => self.0.contains(&format!("-{word}-")) || word.contains('-') && self.0.contains(&format!("-{word}")),
        })
    }
}

/// The number of weights that a name or size field such as `7b`, `1.5B`, `8x7b` or `270m` tells. The first
/// one counts: in `30b-a3b` the second is only the active share.
#[must_use]
pub(crate) fn parameter_count(name: &str) -> Option<u64> {
    name.to_lowercase().split(|c: char| !(c.is_alphanumeric() || c == '.')).find_map(|part| {
        let (number, unit) = if let Some(number) = part.strip_suffix('b') {
            (number, 1e9)
        } else if let Some(number) = part.strip_suffix('m') {
            (number, 1e6)
        } else {
            (part.strip_suffix('t')?, 1e12)
        };
        let (experts, each) = number.split_once('x').unwrap_or(("1", number));
        let plain = |text: &str| {
            let digits = text.starts_with(|c: char| c.is_ascii_digit())
                && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            digits.then(|| text.parse::<f64>().ok()).flatten()
        };
        let count = plain(experts)? * plain(each)? * unit;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be in range")]
        (1.0..1e18).contains(&count).then_some(count.round() as u64)
    })
}

/// The quantisation that a name such as `Qwen3-8B-Q4_K_M.gguf` tells.
#[must_use]
pub(crate) fn quantization(name: &str) -> Option<String> {
    name.to_uppercase().split(|c: char| !(c.is_alphanumeric() || c == '_')).find_map(|part| {
        let digits_after =
            |start: &str| part.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        let gguf = digits_after("Q") && part.contains('_') || digits_after("IQ");
        let other = [
            "F16", "BF16", "FP16", "F32", "FP8", "FP4", "AWQ", "GPTQ", "INT4", "INT8", "4BIT", "8BIT", "MXFP4", "NVFP4",
        ];
        (gguf || other.contains(&part)).then(|| part.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_roles() {
        let table = [
            (
                Role::Chat,
                &["llama3.2:3b", "gpt-4o-mini", "qwen3:8b", "mistral", "tinyllama", "gemma3:4b", "encoder-free"][..],
            ),
            (
                Role::Code,
                &[
                    "qwen2.5-coder:7b",
                    "codellama:13b",
                    "deepseek-coder-v2",
                    "starcoder2:3b",
                    "org/CodeGemma-7b",
                    "devstral",
                ][..],
            ),
            (Role::Reason, &["deepseek-r1:7b", "qwq", "qwen3-30b-a3b-thinking-2507", "o3-mini", "phi4-reasoning"]),
            (
                Role::Embed,
                &[
                    "nomic-embed-text",
                    "bge-m3",
                    "intfloat/e5-large",
                    "gte-small",
                    "all-minilm:l6-v2",
                    "text-embedding-3-small",
                    "qwen3-embedding:0.6b",
                    "snowflake-arctic-embed2",
                    "mxbai-embed-large",
                ],
            ),
            (Role::Transcribe, &["whisper-1", "whisper-large-v3", "gpt-4o-transcribe", "Systran/faster-whisper-small"]),
            (Role::Speak, &["tts-1-hd", "kokoro", "gpt-4o-mini-tts"]),
            (Role::Image, &["dall-e-3", "flux.1-schnell", "sdxl-turbo", "gpt-image-1", "stable-diffusion-3.5"]),
            (
                Role::Unserved,
                &["bge-reranker-v2-m3", "omni-moderation-latest", "gpt-4o-realtime-preview", "llama-guard3:8b"],
            ),
        ];
        for (role, names) in table {
            for name in names {
                assert_eq!(Role::of_name(name), role, "{name}");
            }
        }
    }

    #[test]
    fn names_tell_size_and_quantisation() {
        let table = [
            ("qwen2.5-coder:7b", Some(7_000_000_000)),
            ("llama3.2", None),
            ("qwen2.5:0.5b-instruct-q4_K_M", Some(500_000_000)),
            ("mixtral:8x7b", Some(56_000_000_000)),
            ("Qwen3-30B-A3B", Some(30_000_000_000)),
            ("gemma3:270m", Some(270_000_000)),
            ("kimi-1t", Some(1_000_000_000_000)),
            ("3.2B", Some(3_200_000_000)),
            ("x1b", None),
            ("99999999999999999999b", None),
            ("b", None),
        ];
        for (name, count) in table {
            assert_eq!(parameter_count(name), count, "{name}");
        }
        assert_eq!(quantization("Qwen3-8B-Q4_K_M.gguf").as_deref(), Some("Q4_K_M"));
        assert_eq!(quantization("m:8b-instruct-fp16").as_deref(), Some("FP16"));
        assert_eq!(quantization("x-IQ4_XS").as_deref(), Some("IQ4_XS"));
        assert_eq!(quantization("qwen3:8b"), None);
    }

    #[test]
    fn some_names_tell_of_eyes() {
        for name in ["llava:7b", "Qwen2.5-VL-7B", "gpt-4o", "gemma3:4b", "llama3.2-vision"] {
            assert!(sees(name), "{name}");
        }
        for name in ["llama3.2", "gemma3:1b", "vlad"] {
            assert!(!sees(name), "{name}");
        }
    }

    #[test]
    fn some_names_tell_of_thoughts() {
        for name in [
            "qwen3:8b",
            "Qwen3-30B-A3B",
            "gpt-5-mini",
            "openai/gpt-oss-20b",
            "DeepSeek-V3.1",
            "glm-4.6",
            "gemini-2.5-pro",
        ] {
            assert!(thinks(name), "{name}");
        }
        for name in ["llama3.2", "gpt-4o", "Qwen3-Coder-30B", "Qwen3-4B-Instruct-2507", "qwen2.5:7b", "gemini-1.5-pro"]
        {
            assert!(!thinks(name), "{name}");
        }
    }

    #[test]
    fn every_role_has_words() {
        for role in [
            Role::Chat,
            Role::Code,
            Role::Reason,
            Role::Summarise,
            Role::Embed,
            Role::Transcribe,
            Role::Speak,
            Role::Image,
        ] {
            let mut capability = capability("p", "org/some-model-7b", role);
            describe(&mut capability, role, Some("medicine"));
            assert!(capability.description.contains("org/some-model-7b") && !capability.topics.is_empty(), "{role:?}");
            assert_eq!(capability.domain.as_deref(), Some("medicine"));
            assert_eq!(capability.aliases, ["some-model-7b"]);
            assert!(!capability.operations.is_empty());
        }
    }
}
