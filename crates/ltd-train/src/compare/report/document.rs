//! A report as a list of blocks, which Markdown and HTML are made of alike.

use std::fmt::Write;

use crate::evaluate::Table;

/// A report.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) title: String,
    pub(super) blocks: Vec<Block>,
}

/// A piece of a report.
#[derive(Debug)]
pub(super) enum Block {
    /// A section.
    Heading(String),
    Text(String),
    Table(Table),
    /// A picture as SVG, with what it shows in words. Its numbers are in a table, too.
    Picture {
        svg: String,
        caption: String,
    },
    /// Answers to look at, as HTML that only the page has.
    Answer {
        html: String,
        caption: String,
    },
}

impl Document {
    pub(super) fn heading(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Heading(text.into()));
    }

    pub(super) fn text(&mut self, text: impl Into<String>) {
        self.blocks.push(Block::Text(text.into()));
    }

    pub(super) fn table(&mut self, table: impl Into<Option<Table>>) {
        self.blocks.extend(table.into().map(Block::Table));
    }

    pub(super) fn picture(&mut self, svg: String, caption: impl Into<String>) {
        self.blocks.push(Block::Picture { svg, caption: caption.into() });
    }

    /// As Markdown that reads well unrendered, without pictures and answers.
    pub(super) fn markdown(&self) -> String {
        let mut text = if self.title.is_empty() { String::new() } else { format!("# {}\n", self.title) };
        let mut blocks = self.blocks.iter().peekable();
        while let Some(block) = blocks.next() {
            // A section of answers is the page's.
            if let (Block::Heading(_), Some(Block::Answer { .. })) = (block, blocks.peek()) {
                continue;
            }
            let separator = if text.is_empty() { "" } else { "\n" };
            let _ = match block {
                Block::Heading(heading) => writeln!(text, "{separator}## {heading}"),
                Block::Text(words) => writeln!(text, "{separator}{}", words.trim_end()),
                Block::Table(table) => write!(text, "{separator}{table}"),
                Block::Answer { .. } | Block::Picture { .. } => Ok(()),
            };
        }
        text
    }
}
