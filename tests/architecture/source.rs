//! What a Rust file imports: its paths, without comments, strings and tests.
//!
//! A small scanner of tokens: it knows `use` trees and inline paths, also within macros, and no more of the language.

/// A piece of source that matters for paths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    Word(String),
    /// `::`
    Path,
    Mark(char),
}

/// One path that a file names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// Its segments as written, `crate`, `super` and `self` included; `*` for a glob.
    pub path: Vec<String>,
    /// In `pub use` (of any visibility): the name that it is passed on by.
    pub passed_on_as: Option<String>,
    /// Named in a `use`, not inline.
    pub in_use: bool,
    /// How many inline modules are around it.
    pub depth: usize,
}

/// What is known of a file.
#[derive(Debug, Default)]
pub struct Source {
    pub imports: Vec<Import>,
    /// Names of what it defines.
    pub defines: Vec<String>,
    /// Modules that it declares only for tests.
    pub test_modules: Vec<String>,
}

/// Splits source into tokens.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut tokens = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && chars[i] != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            i = after_block_comment(&chars, i);
        } else if c == '"' {
            i = after_string(&chars, i + 1);
        } else if c == '\'' {
            // A lifetime has no closing quote after its first character.
            if at(i + 1) == '\\' {
                i += 3; // the quote, the backslash and what it escapes, which may be a quote
                while i < chars.len() && chars[i] != '\'' {
                    i += 1;
                }
                i += 1;
            } else if at(i + 2) == '\'' {
                i += 3;
            } else {
                i += 1;
            }
        } else if c.is_alphabetic() || c == '_' {
            let start = i;
            while at(i).is_alphanumeric() || at(i) == '_' {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            match (word.as_str(), at(i)) {
                ("r" | "br" | "cr", '"' | '#') if is_raw_string(&chars, i) => i = after_raw_string(&chars, i),
                ("b" | "c", '"') => i = after_string(&chars, i + 1),
                ("b", '\'') => {}     // the character literal comes next
                ("r", '#') => i += 1, // a raw identifier: the name comes next
                _ => tokens.push(Token::Word(word)),
            }
        } else if c == ':' && at(i + 1) == ':' {
            tokens.push(Token::Path);
            i += 2;
        } else {
            if !c.is_whitespace() && !c.is_numeric() {
                tokens.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    tokens
}

fn after_block_comment(chars: &[char], mut i: usize) -> usize {
    let mut depth = 0;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    i
}

fn after_string(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn is_raw_string(chars: &[char], mut i: usize) -> bool {
    while chars.get(i) == Some(&'#') {
        i += 1;
    }
    chars.get(i) == Some(&'"')
}

fn after_raw_string(chars: &[char], mut i: usize) -> usize {
    let start = i;
    while chars.get(i) == Some(&'#') {
        i += 1;
    }
    let hashes = i - start;
    i += 1;
    while i < chars.len() {
        if chars[i] == '"' && chars[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes {
            return i + 1 + hashes;
        }
        i += 1;
    }
    i
}

fn word(token: Option<&Token>) -> Option<&str> {
    match token {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

fn mark(token: Option<&Token>, c: char) -> bool {
    token == Some(&Token::Mark(c))
}

/// The index after the group that opens at `open`.
fn after_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Mark('{' | '(' | '[') => depth += 1,
            Token::Mark('}' | ')' | ']') => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return index + 1;
                }
            }
            _ => {}
        }
    }
    tokens.len()
}

/// The index after the item that begins at `start`: after its `;`, or its block.
fn after_item(tokens: &[Token], start: usize) -> usize {
    let mut index = start;
    while index < tokens.len() {
        match tokens[index] {
            Token::Mark(';') => return index + 1,
            Token::Mark('{') => {
                let end = after_group(tokens, index);
                // `use a::{b, c};` goes on after its braces.
                if word(tokens.get(start)) == Some("use") || mark(tokens.get(end), ';') {
                    index = end;
                    continue;
                }
                return end;
            }
            Token::Mark('(' | '[') => index = after_group(tokens, index),
            _ => index += 1,
        }
    }
    index
}

/// Whether an attribute's tokens, from `#` on, are `#[cfg(test)]` or `#[cfg(all(test, …))]`.
fn is_test_attribute(tokens: &[Token]) -> bool {
    let words: Vec<&str> = tokens.iter().filter_map(|token| word(Some(token))).collect();
    matches!(words.as_slice(), ["cfg", "test"] | ["cfg", "all", "test", ..] | ["test"] | ["tokio", "test", ..])
}

/// Without the items that exist only in tests; their modules' names are kept.
fn without_tests(tokens: Vec<Token>, test_modules: &mut Vec<String>) -> Vec<Token> {
    let mut kept = Vec::with_capacity(tokens.len());
    let mut index = 0;
    while index < tokens.len() {
        if mark(tokens.get(index), '#') && mark(tokens.get(index + 1), '[') {
            let mut end = after_group(&tokens, index + 1);
            if is_test_attribute(&tokens[index..end]) {
                // Further attributes belong to the same item.
                while mark(tokens.get(end), '#') {
                    end = after_group(&tokens, end + 1);
                }
                let item = &tokens[end..];
                if let Some(position) = item.iter().take(6).position(|token| word(Some(token)) == Some("mod")) {
                    test_modules.extend(word(item.get(position + 1)).map(str::to_owned));
                }
                index = after_item(&tokens, end);
                continue;
            }
            kept.extend_from_slice(&tokens[index..end]);
            index = end;
            continue;
        }
        kept.push(tokens[index].clone());
        index += 1;
    }
    kept
}

const DEFINING: [&str; 9] = ["fn", "struct", "enum", "trait", "const", "static", "type", "mod", "union"];

/// Reads a file.
pub fn read(text: &str) -> Source {
    let mut source = Source::default();
    let tokens = without_tests(tokens(text), &mut source.test_modules);
    // The braces that are open, and whether each is an inline module's.
    let mut braces: Vec<bool> = Vec::new();
    let mut visible = false;
    let mut index = 0;
    while index < tokens.len() {
        let depth = braces.iter().filter(|module| **module).count();
        match &tokens[index] {
            Token::Mark('{') => {
                let module = index >= 2 && word(tokens.get(index - 2)) == Some("mod");
                braces.push(module);
            }
            Token::Mark('}') => {
                braces.pop();
            }
            Token::Word(name) if name == "pub" => {
                visible = true;
                if mark(tokens.get(index + 1), '(') {
                    index = after_group(&tokens, index + 1);
                    continue;
                }
                index += 1;
                continue;
            }
            Token::Word(name) if name == "use" => {
                index = use_tree(&tokens, index + 1, &mut Vec::new(), visible, depth, &mut source.imports);
                visible = false;
                continue;
            }
            Token::Word(name) => {
                if DEFINING.contains(&name.as_str())
                    && let Some(defined) = word(tokens.get(index + 1))
                {
                    source.defines.push(defined.to_owned());
                }
                let begins = index == 0 || tokens[index - 1] != Token::Path;
                if begins && tokens.get(index + 1) == Some(&Token::Path) {
                    let (path, end) = inline_path(&tokens, index);
                    source.imports.push(Import { path, passed_on_as: None, in_use: false, depth });
                    visible = false;
                    index = end;
                    continue;
                }
            }
            Token::Path | Token::Mark(_) => {}
        }
        visible = false;
        index += 1;
    }
    source
}

fn inline_path(tokens: &[Token], start: usize) -> (Vec<String>, usize) {
    let mut path = Vec::new();
    let mut index = start;
    while let Some(segment) = word(tokens.get(index)) {
        path.push(segment.to_owned());
        index += 1;
        if tokens.get(index) != Some(&Token::Path) {
            break;
        }
        index += 1;
    }
    (path, index)
}

/// Reads one tree of a `use`, and returns the index after it.
fn use_tree(
    tokens: &[Token],
    start: usize,
    prefix: &mut Vec<String>,
    visible: bool,
    depth: usize,
    imports: &mut Vec<Import>,
) -> usize {
    let before = prefix.len();
    let mut index = start;
    let mut renamed = None;
    loop {
        match tokens.get(index) {
            Some(Token::Path) => index += 1,
            Some(Token::Word(name)) if name == "as" => {
                renamed = word(tokens.get(index + 1)).map(str::to_owned);
                index += 2;
            }
            Some(Token::Word(name)) => {
                prefix.push(name.clone());
                index += 1;
            }
            Some(Token::Mark('*')) => {
                prefix.push("*".to_owned());
                index += 1;
            }
            Some(Token::Mark('{')) => {
                index += 1;
                while index < tokens.len() && !mark(tokens.get(index), '}') {
                    index = use_tree(tokens, index, prefix, visible, depth, imports);
                    if mark(tokens.get(index), ',') {
                        index += 1;
                    }
                }
                prefix.truncate(before);
                return index + 1;
            }
            _ => break,
        }
    }
    if prefix.len() > before {
        let mut path = prefix.clone();
        // `a::{self}` is `a`.
        if path.len() > 1 && path.last().is_some_and(|last| last == "self") {
            path.pop();
        }
        let name = renamed.or_else(|| path.last().cloned());
        imports.push(Import { path, passed_on_as: name.filter(|_| visible), in_use: true, depth });
    }
    prefix.truncate(before);
    index
}
