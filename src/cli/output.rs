//! Where a verb writes: tables and colours for a terminal, plain aligned columns for everything else.
//!
//! Names come from other machines, so what could steer a terminal is taken out of them.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};

/// How the output looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// A person sees it: long cells are wrapped.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
    /// Columns of the terminal.
    pub width: Option<u16>,
    /// A person sees standard error: it is said there what is waited for.
    pub waits: bool,
}

impl Look {
    /// How the standard streams look; `NO_COLOR` and `TERM=dumb` are respected.
    #[must_use]
    pub fn of_streams() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            colour: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            width: terminal_size::terminal_size().map(|(width, _)| width.0),
            waits: io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb"),
        }
    }
}

/// Where a verb writes.
pub struct Output<'a> {
    /// What was asked for.
    pub out: &'a mut (dyn Write + Send),
    /// What is said about it.
    pub err: &'a mut (dyn Write + Send),
    /// How it looks.
    pub look: Look,
}

impl std::fmt::Debug for Output<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Output").field("look", &self.look).finish_non_exhaustive()
    }
}

/// Narrowest that a column of words becomes: below it, names are read letter by letter.
const NARROWEST: usize = 14;

/// What stands between two columns.
const GAP: usize = 2;

/// A column of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Column {
    heading: &'static str,
    /// Numbers stand to the right, and are never wrapped.
    number: bool,
    /// Sentences give way before names: they read as well on two lines.
    sentence: bool,
    /// Left out where a terminal is too narrow for it.
    minor: bool,
}

impl Column {
    /// A column of names.
    pub(super) const fn text(heading: &'static str) -> Self {
        Self { heading, number: false, sentence: false, minor: false }
    }

    /// A column of sentences.
    pub(super) const fn sentence(heading: &'static str) -> Self {
        Self { heading, number: false, sentence: true, minor: false }
    }

    /// A column of numbers.
    pub(super) const fn number(heading: &'static str) -> Self {
        Self { heading, number: true, sentence: false, minor: false }
    }

    /// The first to go where there is no room; of several such columns, the rightmost goes first.
    pub(super) const fn minor(self) -> Self {
        Self { minor: true, ..self }
    }
}

/// Which columns are shown on a terminal of `width`, and how wide each is. Those that need most give way first, but
/// none becomes narrower than what can be read.
fn fit(columns: &[Column], natural: &[usize], width: usize) -> Vec<(usize, usize)> {
    let mut shown: Vec<(usize, usize)> = natural.iter().copied().enumerate().collect();
    let needed = |shown: &[(usize, usize)]| shown.iter().map(|(_, width)| width + GAP).sum::<usize>();
    // What the columns would need if each gave way as far as it can.
    let least = |shown: &[(usize, usize)]| {
        let least = |(index, width): &(usize, usize)| match columns[*index].number {
            true => *width + GAP,
            false => (*width).min(NARROWEST) + GAP,
        };
        shown.iter().map(least).sum::<usize>()
    };
    while least(&shown) > width {
        let Some(minor) = shown.iter().rposition(|(index, _)| columns[*index].minor) else { break };
        shown.remove(minor);
    }
    while needed(&shown) > width {
        let widest = shown
            .iter_mut()
            .filter(|(index, width)| !columns[*index].number && *width > NARROWEST)
            .max_by_key(|(index, width)| (columns[*index].sentence, *width));
        match widest {
            Some((_, width)) => *width -= 1,
            None => break,
        }
    }
    shown
}

impl Output<'_> {
    /// Writes a line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())
    }

    /// Says something about the output. Whoever closed stderr does not want to know; the work goes on.
    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", text.as_ref());
    }

    /// Says what is waited for, in place of what it said before; nothing where no person looks.
    pub(super) fn waiting(&mut self, text: &str) {
        if self.look.waits {
            // One line, and no escapes: with `NO_COLOR` these would be taken out.
            let width = usize::from(self.look.width.unwrap_or(80)).saturating_sub(1);
            let text: String = name(text).chars().take(width).collect();
            let _ = write!(self.err, "\r{:width$}\r{text}", "");
            let _ = self.err.flush();
        }
    }

    /// Writes JSON as the API sent it, with a line end.
    pub(super) fn json(&mut self, body: &[u8]) -> io::Result<()> {
        self.out.write_all(body.trim_ascii_end())?;
        self.out.write_all(b"\n")
    }

    /// Writes a part of a streamed text at once.
    pub(super) fn stream(&mut self, text: &str) -> io::Result<()> {
        let text = if self.look.terminal { harmless(text) } else { Cow::Borrowed(text) };
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }

    /// Writes text, wrapped between words on a terminal, each line below the other behind `indent`.
    pub(super) fn paragraph(&mut self, indent: &str, text: &str) -> io::Result<()> {
        let width = match self.look {
            Look { terminal: true, width: Some(width), .. } => usize::from(width).saturating_sub(indent.len()),
            _ => usize::MAX,
        };
        let mut line = String::new();
        let mut used = 0;
        for word in text.split(' ') {
            let length = word.chars().count();
            if used > 0 && used + 1 + length > width {
                self.line(format!("{indent}{line}"))?;
                line.clear();
                used = 0;
            }
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += length;
        }
        self.line(format!("{indent}{line}"))
    }

    /// Writes rows under headings. An empty cell is `-`, so that scripts can count columns.
    pub(super) fn table(&mut self, columns: &[Column], rows: &[Vec<String>]) -> io::Result<()> {
        let cells: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| if cell.is_empty() { "-".to_owned() } else { name(cell) }).collect())
            .collect();
        let natural: Vec<usize> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let longest = cells.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max();
                longest.unwrap_or(0).max(column.heading.chars().count())
            })
            .collect();
        let width = match self.look {
            Look { terminal: true, width: Some(width), .. } => usize::from(width),
            _ => usize::MAX,
        };
        let shown = fit(columns, &natural, width);

        let mut table = Table::new();
        // Every column has its width already; the arrangement is what wraps at it.
        table.load_style(comfy_table::presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_width(u16::MAX).force_no_tty();
        if self.look.colour {
            table.enforce_styling();
        }
        let heading = |(index, _): &(usize, usize)| {
            Cell::new(columns[*index].heading.to_uppercase()).add_attribute(Attribute::Bold)
        };
        table.set_header(shown.iter().map(heading));
        for row in &cells {
            table.add_row(shown.iter().map(|(index, _)| Cell::new(row.get(*index).map_or("-", String::as_str))));
        }
        for (place, (index, width)) in shown.iter().enumerate() {
            let Some(column) = table.column_mut(place) else { continue };
            column.set_padding((0, GAP as u16));
            if columns[*index].number {
                column.set_cell_alignment(CellAlignment::Right);
            }
            let width = u16::try_from(width + GAP).unwrap_or(u16::MAX);
            column.set_constraint(ColumnConstraint::Absolute(Width::Fixed(width)));
        }
        self.line(table.trim_fmt())
    }

    /// The text in bold, on a terminal with colours.
    pub(super) fn bold(&self, text: &str) -> String {
        self.styled(Style::new().bold(), text)
    }

    /// The text in green.
    pub(super) fn good(&self, text: &str) -> String {
        self.styled(AnsiColor::Green.on_default(), text)
    }

    /// The text in red.
    pub(super) fn bad(&self, text: &str) -> String {
        self.styled(AnsiColor::Red.on_default(), text)
    }

    fn styled(&self, style: Style, text: &str) -> String {
        if self.look.colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// A name from elsewhere, on one line and harmless.
pub(super) fn name(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Text from a model: line ends and tabs stay, what steers a terminal goes.
fn harmless(text: &str) -> Cow<'_, str> {
    let steers = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(steers) { Cow::Owned(text.chars().filter(|c| !steers(*c)).collect()) } else { Cow::Borrowed(text) }
}

/// The part of a peer id that tells nodes apart; the front is the same for all.
pub(super) fn short_id(id: &str) -> &str {
    /// Enough that two nodes of one mesh do not look the same.
    const SHOWN: usize = 8;
    let cut = id.char_indices().rev().nth(SHOWN - 1).map_or(0, |(index, _)| index);
    &id[cut..]
}

/// Milliseconds as a person reads them.
pub(super) fn milliseconds(ms: f64) -> String {
    if !ms.is_finite() || ms < 0.0 {
        "-".to_owned()
    } else if ms < 0.05 {
        "0 ms".to_owned()
    } else if ms < 10.0 {
        format!("{ms:.1} ms")
    } else if ms < 1000.0 {
        format!("{ms:.0} ms")
    } else if ms < 100_000.0 {
        format!("{:.1} s", ms / 1000.0)
    } else {
        format!("{:.0} min", ms / 60_000.0)
    }
}

/// `1 node`, `2 nodes`.
pub(super) fn counted(count: u64, thing: &str) -> String {
    match (count, thing.strip_suffix('y')) {
        (1, _) => format!("1 {thing}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {thing}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_counts_read_well() {
        for (ms, text) in
            [(0.0, "0 ms"), (0.4, "0.4 ms"), (42.4, "42 ms"), (1234.0, "1.2 s"), (180_000.0, "3 min"), (f64::NAN, "-")]
        {
            assert_eq!(milliseconds(ms), text);
        }
        assert_eq!(counted(1, "capability"), "1 capability");
        assert_eq!(counted(0, "capability"), "0 capabilities");
        assert_eq!(counted(2, "node"), "2 nodes");
    }

    #[test]
    fn a_narrow_table_loses_minor_columns_and_shortens_the_widest_but_stays_readable() {
        const COLUMNS: &[Column] =
            &[Column::text("name"), Column::text("model"), Column::number("round trip"), Column::text("id").minor()];
        let natural = [8, 40, 10, 8];
        assert_eq!(fit(COLUMNS, &natural, 100), [(0, 8), (1, 40), (2, 10), (3, 8)]);
        assert_eq!(fit(COLUMNS, &natural, 60), [(0, 8), (1, 26), (2, 10), (3, 8)]);
        assert_eq!(fit(COLUMNS, &natural, 40), [(0, 8), (1, 16), (2, 10)]);
        assert_eq!(fit(COLUMNS, &natural, 20), [(0, 8), (1, 14), (2, 10)], "readable goes before fitting");
        assert_eq!(fit(COLUMNS, &[], 20), []);
        const REASONED: &[Column] = &[Column::text("model"), Column::sentence("reason")];
        assert_eq!(fit(REASONED, &[24, 30], 50), [(0, 24), (1, 22)], "names stay whole as long as they can");
    }

    #[test]
    fn a_paragraph_is_wrapped_between_words_on_a_terminal_only() {
        for (width, expected) in [(Some(12), "  one two\n  three\n"), (None, "  one two three\n")] {
            let mut out = Vec::new();
            let look = Look { terminal: width.is_some(), width, ..Look::default() };
            let mut output = Output { out: &mut out, err: &mut Vec::new(), look };
            output.paragraph("  ", "one two three").expect("written");
            assert_eq!(String::from_utf8(out).expect("text"), expected);
        }
    }

    #[test]
    fn what_steers_a_terminal_is_taken_out() {
        assert_eq!(name("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(harmless("a\u{1b}[2J\n\tb"), "a[2J\n\tb");
        assert_eq!(short_id("12D3KooWabcdefgh"), "abcdefgh");
        assert_eq!(short_id("äb"), "äb");
    }
}
