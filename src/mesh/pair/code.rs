//! The code that one person reads to another: a number and two words, such as `7-otter-lamp`.
//!
//! The number only tells codes apart that are open at the same time in one network; it is sent in the clear. The words
//! are the secret: 16 bits, which is enough because each guess needs a whole exchange with the machine that
//! offers the code, and that takes three wrong ones at the most.

use std::fmt;
use std::str::FromStr;

use super::words::{self, WORDS};

/// The largest number: two digits are easily said.
const MAX_NUMBER: u32 = 99;

/// A code. Its `Debug` does not show the words.
#[derive(Clone, PartialEq, Eq)]
pub struct Code {
    number: u32,
    words: [&'static str; 2],
}

/// Not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a code: {0} (type the code as the other machine shows it, such as 7-otter-lamp)")]
pub struct CodeError(String);

impl Code {
    /// A new one, by chance.
    #[must_use]
    pub fn random() -> Self {
        let [first, second]: [u8; 2] = rand::random();
        let number = 1 + rand::random::<u32>() % MAX_NUMBER;
        Self { number, words: [WORDS[usize::from(first)], WORDS[usize::from(second)]] }
    }

    /// Which of the codes that are open in a network.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// Whether a text is meant to be one, rightly written or not: a number, and words behind it.
    #[must_use]
    pub fn is_like(text: &str) -> bool {
        let parts: Vec<&str> = parts(text).collect();
        let [number, words @ ..] = parts.as_slice() else { return false };
        let is_word = |word: &&str| word.bytes().all(|byte| byte.is_ascii_alphabetic());
        number.bytes().all(|byte| byte.is_ascii_digit()) && (1..=4).contains(&words.len()) && words.iter().all(is_word)
    }
}

fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| letter == '-' || letter == '_' || letter.is_whitespace()).filter(|part| !part.is_empty())
}

/// As it is read out: for the two people, and for no log.
impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.words;
        write!(f, "{}-{first}-{second}", self.number)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("number", &self.number).finish_non_exhaustive()
    }
}

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let parts: Vec<&str> = parts(text).collect();
        let [number, first, second] = parts.as_slice() else {
            return Err(CodeError("it is not a number and two words".into()));
        };
        let number = number.parse().ok().filter(|number| (1..=MAX_NUMBER).contains(number));
        let number = number.ok_or_else(|| CodeError(format!("it does not begin with a number up to {MAX_NUMBER}")))?;
        let word = |text: &str| {
            let text: String = text.chars().take(20).collect::<String>().to_lowercase();
            words::find(&text).map_err(|near| {
                let near = near.map_or_else(String::new, |near| format!("; perhaps {near:?}"));
                CodeError(format!("no code has the word {text:?} in it{near}"))
            })
        };
        Ok(Self { number, words: [word(first)?, word(second)?] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_read_as_people_type_it() {
        for text in ["7-otter-lamp", " 7 Otter LAMP\n", "07_otter-lamp"] {
            assert!(Code::is_like(text), "{text}");
            assert_eq!(text.parse::<Code>().expect(text).to_string(), "7-otter-lamp");
        }
        for _ in 0..100 {
            let code = Code::random();
            assert_eq!(code.to_string().parse(), Ok(code.clone()));
            assert!(!format!("{code:?}").contains(code.words[0]), "{code:?}");
        }
    }

    #[test]
    fn what_is_no_code_is_explained_before_it_counts_as_an_attempt() {
        for (text, why) in [
            ("7-oter-lamp", "perhaps \"otter\""),
            ("7-otter", "two words"),
            ("7-otter-lamp-lamp", "two words"),
            ("0-otter-lamp", "number"),
            ("100-otter-lamp", "number"),
        ] {
            assert!(Code::is_like(text), "{text}");
            assert!(text.parse::<Code>().expect_err(text).to_string().contains(why), "{text}");
        }
        for other in ["10.0.0.7:11450", "nas:11450", "/ip4/10.0.0.7/tcp/1", "atmo1abc", "7", "", "nas-7-otter"] {
            assert!(!Code::is_like(other), "{other}");
        }
    }
}
