//! Where a verb writes: tables and colours for a terminal, plain aligned columns for everything else.
//!
//! Names come from other machines, so what could steer a terminal is taken out of them.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table};

/// How the output looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Look {
    /// A person sees it: long cells are wrapped.
    pub terminal: bool,
    /// With colours.
    pub colour: bool,
    /// Columns of the terminal.
    pub width: Option<u16>,
}

impl Look {
    /// How standard output looks; `NO_COLOR` and `TERM=dumb` are respected.
    #[must_use]
    pub fn of_stdout() -> Self {
        let stdout = io::stdout();
        Self {
            terminal: stdout.is_terminal(),
            colour: anstream::AutoStream::choice(&stdout) != anstream::ColorChoice::Never,
            width: terminal_size::terminal_size().map(|(width, _)| width.0),
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

/// Longest cell whose column is never wrapped: most model names fit, and two of them still leave room on a terminal.
const UNWRAPPED: usize = 28;

/// A column: its heading, and whether it holds numbers.
pub(super) type Column = (&'static str, bool);

impl Output<'_> {
    /// Writes a line.
    pub(super) fn line(&mut self, text: impl AsRef<str>) -> io::Result<()> {
        writeln!(self.out, "{}", text.as_ref())
    }

    /// Says something about the output. Whoever closed stderr does not want to know; the work goes on.
    pub(super) fn note(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(self.err, "{}", text.as_ref());
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

    /// Writes rows under headings. An empty cell is `-`, so that scripts can count columns.
    pub(super) fn table(&mut self, columns: &[Column], rows: &[Vec<String>]) -> io::Result<()> {
        let mut table = Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        match self.look {
            Look { terminal: true, width: Some(width), .. } => {
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
            }
            _ => {
                table.set_content_arrangement(ContentArrangement::Disabled);
            }
        }
        table.force_no_tty();
        if self.look.colour {
            table.enforce_styling();
        }
        let heading = |(name, _): &Column| Cell::new(name.to_uppercase()).add_attribute(Attribute::Bold);
        table.set_header(columns.iter().map(heading));
        for row in rows {
            table.add_row(row.iter().map(|cell| if cell.is_empty() { Cell::new("-") } else { Cell::new(name(cell)) }));
        }
        for (index, (_, number)) in columns.iter().enumerate() {
            let Some(column) = table.column_mut(index) else { continue };
            column.set_padding((0, 2));
            if *number {
                column.set_cell_alignment(CellAlignment::Right);
            }
            let longest = rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max();
            // A number or a short name that is wrapped is read wrongly; sentences can give way.
            if *number || longest.is_none_or(|longest| longest <= UNWRAPPED) {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
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
    fn what_steers_a_terminal_is_taken_out() {
        assert_eq!(name("a\u{1b}[2J\nb"), "a\u{fffd}[2J\u{fffd}b");
        assert_eq!(harmless("a\u{1b}[2J\n\tb"), "a[2J\n\tb");
        assert_eq!(short_id("12D3KooWabcdefgh"), "abcdefgh");
        assert_eq!(short_id("äb"), "äb");
    }
}
