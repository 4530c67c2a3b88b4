//! An attempt's output as the page keeps it: the lines, the marks between them, and which of them a window shows.
//!
//! Its memory is bounded: of an output beyond `MOST_BYTES` the oldest lines are forgotten, and counted.
//! A row is a line or a mark. Rows have a fixed height, or, wrapped, a whole multiple of it.

use common::{Mark, OutputMark, StepId};
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::ops::Range;

use crate::ansi::{Ansi, Line};

/// What all lines together may cost; a browser's tab has room for some of these.
pub(crate) const MOST_BYTES: usize = 64 * 1024 * 1024;
/// Browsers give up on elements somewhat above 16 million pixels high.
const MOST_LINES: usize = 800_000;
/// What a line costs besides its text.
const LINE_BYTES: usize = size_of::<Line>() + 16;
/// A longer line is folded until somebody wants to see it.
pub(crate) const FOLD_BYTES: usize = 8 * 1024;
/// So is one that changes its colours more often: each piece is an element of the page.
pub(crate) const FOLD_SPANS: usize = 400;
/// The height of a row, as the style sheet has it.
pub(crate) const ROW_PX: u32 = 20;
/// How many rows are drawn above and below what can be seen, so that scrolling does not outrun drawing.
const SPARE_ROWS: usize = 24;

#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    ansi: Ansi,
    lines: VecDeque<Line>,
    bytes: usize,
    /// How many lines were forgotten.
    pub forgotten: usize,
    marks: Vec<LogMark>,
    /// Lines, by number, that are shown whole however long.
    unfolded: BTreeSet<usize>,
    wrapped: Option<Wrapped>,
}

/// Something between the lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogMark {
    pub offset: u64,
    pub kind: MarkKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// The first output of this step follows.
    Step(StepId),
    Dropped(u64),
    /// None where nobody knows how much.
    Gap(Option<u64>),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Row<'a> {
    /// Counted from 1 in the whole output.
    Line {
        number: usize,
        line: &'a Line,
        folded: bool,
    },
    Mark(&'a LogMark),
}

/// What can be seen of the log, as the browser measured it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct Viewport {
    pub top_px: f64,
    pub height_px: f64,
    /// Characters that fit into one row.
    pub columns: u32,
    /// The end of the log is in sight.
    pub at_end: bool,
}

/// The rows to draw, and where.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Window {
    pub rows: Range<usize>,
    pub top_px: u32,
    pub total_px: u32,
}

/// Where each row ends, in heights of one row, for lines that wrap at `columns`.
#[derive(Debug, Clone, Default)]
struct Wrapped {
    columns: u32,
    ends: Vec<u32>,
}

impl Log {
    /// The byte of the output that it wants next.
    pub(crate) fn position(&self) -> u64 {
        self.ansi.position()
    }

    /// Takes bytes that stand at `at` in the output. What it has already it skips; false if some are missing
    /// in between.
    pub(crate) fn feed(&mut self, at: u64, bytes: &[u8]) -> bool {
        let Some(known) = self.position().checked_sub(at) else { return false };
        let new = bytes.get(known as usize..).unwrap_or_default();
        self.unwrap_last();
        let (lines, total) = (&mut self.lines, &mut self.bytes);
        self.ansi.feed(new, |mut line| {
            line.text.shrink_to_fit();
            line.spans.shrink_to_fit();
            *total += cost(&line);
            lines.push_back(line);
        });
        self.forget();
        self.wrap_rest();
        true
    }

    pub(crate) fn finish(&mut self) {
        self.unwrap_last();
        self.ansi.finish();
        self.wrap_rest();
    }

    /// Puts the marks of the output's index where they belong.
    pub(crate) fn set_marks(&mut self, index: &[OutputMark]) {
        self.marks = marks_of(index);
        self.rewrap();
    }

    pub(crate) fn lines(&self) -> usize {
        self.forgotten + self.kept()
    }

    pub(crate) fn rows(&self) -> usize {
        self.kept() + self.marks.len()
    }

    pub(crate) fn row(&self, row: usize) -> Option<Row<'_>> {
        // The marks are few: as many as an output has steps and holes.
        let before = (0..self.marks.len()).take_while(|i| self.row_of_mark(*i) < row).count();
        if self.marks.get(before).is_some() && self.row_of_mark(before) == row {
            return Some(Row::Mark(&self.marks[before]));
        }
        let line = self.line(row - before)?;
        let number = self.forgotten + row - before + 1;
        Some(Row::Line {
            number,
            line,
            folded: cut(line).len() < line.text.len() && !self.unfolded.contains(&number),
        })
    }

    /// Lines that have come and will not change any more.
    pub(crate) fn finished(&self) -> usize {
        self.forgotten + self.lines.len()
    }

    /// A line by its number, where it is kept.
    pub(crate) fn text_of(&self, number: usize) -> Option<&str> {
        self.line(self.index_of(number)?).map(|line| line.text.as_str())
    }

    pub(crate) fn row_of_line(&self, number: usize) -> Option<usize> {
        let i = self.index_of(number)?;
        let above = (0..self.marks.len()).take_while(|mark| self.row_of_mark(*mark) - mark <= i).count();
        Some(i + above)
    }

    pub(crate) fn row_of_step(&self, step: &StepId) -> Option<usize> {
        let i = self.marks.iter().position(|mark| matches!(&mark.kind, MarkKind::Step(id) if id == step))?;
        Some(self.row_of_mark(i))
    }

    pub(crate) fn unfold(&mut self, number: usize) {
        self.unfolded.insert(number);
        self.rewrap();
    }

    /// All lines that are kept, without their styles.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(self.bytes);
        for i in 0..self.kept() {
            if let Some(line) = self.line(i) {
                text.push_str(&line.text);
                text.push('\n');
            }
        }
        text
    }

    pub(crate) fn wrap(&mut self, columns: Option<u32>) {
        if self.wrapped.as_ref().map(|wrapped| wrapped.columns) != columns {
            self.wrapped = columns.map(|columns| Wrapped { columns: columns.max(1), ends: Vec::new() });
            self.wrap_rest();
        }
    }

    /// What to draw so that the viewport is full; `follow` means its end, wherever the viewport was before.
    pub(crate) fn window(&self, seen: &Viewport, follow: bool) -> Window {
        let total_px = self.end_of(self.rows()) * ROW_PX;
        let end_px = f64::from(total_px) - seen.height_px;
        let top_px = if follow { end_px } else { seen.top_px.min(end_px) }.max(0.0);
        let first = self.row_at((top_px / f64::from(ROW_PX)) as u32);
        let last = self.row_at(((top_px + seen.height_px) / f64::from(ROW_PX)) as u32) + 1;
        // In steps, so that most movements change nothing.
        let from = first.saturating_sub(SPARE_ROWS) / SPARE_ROWS * SPARE_ROWS;
        let to = ((last + SPARE_ROWS).div_ceil(SPARE_ROWS) * SPARE_ROWS).min(self.rows());
        Window { rows: from..to, top_px: self.end_of(from) * ROW_PX, total_px }
    }

    /// The number of the first line that is in sight.
    pub(crate) fn first_seen(&self, seen: &Viewport) -> usize {
        let top = self.row_at((seen.top_px / f64::from(ROW_PX)) as u32);
        let line = (top..self.rows()).find_map(|row| match self.row(row)? {
            Row::Line { number, .. } => Some(number),
            Row::Mark(_) => None,
        });
        line.unwrap_or(1)
    }

    /// How far down a row begins.
    pub(crate) fn px_of_row(&self, row: usize) -> u32 {
        self.end_of(row) * ROW_PX
    }

    fn index_of(&self, number: usize) -> Option<usize> {
        number.checked_sub(self.forgotten + 1).filter(|i| *i < self.kept())
    }

    /// Lines that are kept, the unfinished one included.
    fn kept(&self) -> usize {
        self.lines.len() + usize::from(!self.ansi.unfinished().text.is_empty())
    }

    fn line(&self, i: usize) -> Option<&Line> {
        if i == self.lines.len() { Some(self.ansi.unfinished()) } else { self.lines.get(i) }
    }

    fn row_of_mark(&self, i: usize) -> usize {
        let offset = self.marks[i].offset;
        let lines = self.lines.partition_point(|line| line.offset < offset);
        let unfinished = lines == self.lines.len() && self.ansi.unfinished().offset < offset;
        (lines + usize::from(unfinished)).min(self.kept()) + i
    }

    /// In large steps, as it moves what is on the screen.
    fn forget(&mut self) {
        if self.bytes <= MOST_BYTES && self.lines.len() <= MOST_LINES {
            return;
        }
        while self.bytes > MOST_BYTES / 8 * 7 || self.lines.len() > MOST_LINES / 8 * 7 {
            let Some(line) = self.lines.pop_front() else { break };
            self.bytes -= cost(&line);
            self.forgotten += 1;
        }
        let first = self.lines.front().map_or(u64::MAX, |line| line.offset);
        self.marks.retain(|mark| mark.offset >= first);
        self.unfolded = self.unfolded.split_off(&(self.forgotten + 1));
        self.rewrap();
    }

    /// Forgets how high the unfinished line is, and the marks below it: these may change. A row above is a
    /// finished line, or a mark that has one below it, and stays.
    fn unwrap_last(&mut self) {
        if let Some(wrapped) = &mut self.wrapped {
            wrapped.ends.truncate(self.lines.len());
        }
    }

    fn rewrap(&mut self) {
        if let Some(wrapped) = &mut self.wrapped {
            wrapped.ends.clear();
        }
        self.wrap_rest();
    }

    fn wrap_rest(&mut self) {
        let Some(mut wrapped) = self.wrapped.take() else { return };
        for row in wrapped.ends.len()..self.rows() {
            let before = wrapped.ends.last().copied().unwrap_or(0);
            wrapped.ends.push(before + self.height(row, wrapped.columns));
        }
        self.wrapped = Some(wrapped);
    }

    fn height(&self, row: usize, columns: u32) -> u32 {
        match self.row(row) {
            Some(Row::Line { line, folded, .. }) => {
                let shown = if folded { cut(line) } else { &line.text };
                (shown.chars().count() as u32).div_ceil(columns).max(1)
            }
            Some(Row::Mark(_)) | None => 1,
        }
    }

    /// Where the row before `row` ends.
    fn end_of(&self, row: usize) -> u32 {
        match &self.wrapped {
            None => row as u32,
            Some(_) if row == 0 => 0,
            Some(wrapped) => wrapped.ends.get(row - 1).or(wrapped.ends.last()).copied().unwrap_or(0),
        }
    }

    fn row_at(&self, height: u32) -> usize {
        let row = match &self.wrapped {
            None => height as usize,
            Some(wrapped) => wrapped.ends.partition_point(|end| *end <= height),
        };
        row.min(self.rows().saturating_sub(1))
    }
}

/// As much of a long line as is shown before somebody wants to see all of it.
pub(crate) fn cut(line: &Line) -> &str {
    let spans = line.spans.get(FOLD_SPANS).map_or(line.text.len(), |span| span.end as usize);
    let mut end = line.text.len().min(FOLD_BYTES).min(spans);
    while !line.text.is_char_boundary(end) {
        end -= 1;
    }
    &line.text[..end]
}

fn cost(line: &Line) -> usize {
    LINE_BYTES + line.text.capacity() + line.spans.capacity() * size_of::<crate::ansi::Span>()
}

/// The first output of each step, where there is more than one, and every hole; holes side by side are one.
fn marks_of(index: &[OutputMark]) -> Vec<LogMark> {
    let mut marks: Vec<LogMark> = Vec::new();
    let mut steps = HashSet::new();
    for OutputMark { offset, mark, .. } in index {
        let kind = match mark {
            Mark::Pipedef => continue,
            Mark::Output { step, .. } if steps.insert(step) => MarkKind::Step(step.clone()),
            Mark::Output { .. } => continue,
            Mark::Dropped { bytes, .. } | Mark::PipedefDropped { bytes } => MarkKind::Dropped(*bytes),
            Mark::Gap { bytes, .. } => MarkKind::Gap(*bytes),
        };
        match (marks.last_mut(), &kind) {
            (Some(LogMark { offset: o, kind: MarkKind::Dropped(sum) }), MarkKind::Dropped(more))
                if o == offset =>
            {
                *sum = sum.saturating_add(*more);
            }
            (Some(LogMark { offset: o, kind: MarkKind::Gap(sum) }), MarkKind::Gap(more)) if o == offset => {
                *sum = sum.zip(*more).map(|(sum, more)| sum.saturating_add(more));
            }
            _ => marks.push(LogMark { offset: *offset, kind }),
        }
    }
    if steps.len() < 2 {
        marks.retain(|mark| !matches!(mark.kind, MarkKind::Step(_)));
    }
    marks
}
