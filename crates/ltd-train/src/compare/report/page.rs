//! A report as one page that needs nothing else: no script, no network, light and dark.

use std::fmt::Write;

use super::document::{Block, Document};
use crate::evaluate::Table;

/// Colours that can be told apart on white and on black, also by the colour-blind (Okabe and Ito,
/// 2008).
const STYLE: &str = "
:root { color-scheme: light dark; --line: #8886; --soft: #8882; --own: #8884; --drafted: #0072b2; --copied: #009e73;
  --both: #cc79a7; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
p { white-space: pre-line; }
a { color: inherit; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
caption { text-align: left; padding: 0.5rem 0; min-width: min(40rem, 90vw); }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid var(--soft); text-align: right; white-space: nowrap; }
thead th { border-bottom-color: var(--line); font-weight: 600; }
tbody th { font-weight: 400; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: Canvas; }
tbody tr:hover > * { background: var(--soft); }
figure { margin: 1.5rem 0; } figcaption { font-size: 0.9rem; max-width: 60rem; }
svg { max-width: 100%; height: auto; }
.answer { font: 0.95rem/1.9 ui-monospace, monospace; white-space: pre-wrap; border: 1px solid var(--line);
  border-radius: 6px; padding: 0.8rem 1rem; }
.cycle { border-left: 2px solid var(--line); padding-left: 1px; }
.cycle:hover { outline: 2px solid Highlight; }
.own { background: var(--own); }
.drafted { border-bottom: 3px solid var(--drafted); }
.copied { border-bottom: 3px double var(--copied); }
.both { border-bottom: 3px dotted var(--both); }
details > summary { cursor: pointer; padding: 0.3rem 0; }
";

/// The page of a document.
pub(super) fn page(document: &Document) -> String {
    let mut body = String::new();
    let mut contents = String::new();
    let (mut sections, mut section) = (0, String::new());
    for block in &document.blocks {
        let _ = match block {
            Block::Heading(text) => {
                sections += 1;
                section = escaped(text);
                let _ = writeln!(contents, "<li><a href=\"#s{sections}\">{section}</a></li>");
                writeln!(body, "<h2 id=\"s{sections}\">{section}</h2>")
            }
            Block::Text(text) => writeln!(body, "<p>{}</p>", escaped(text)),
            Block::Table(shown) => writeln!(body, "{}", table(shown, &section)),
            Block::Picture { svg, caption } => {
                let (svg, caption) = (labelled(svg, caption), escaped(caption));
                writeln!(body, "<figure>{svg}<figcaption>{caption}</figcaption></figure>")
            }
            Block::Answer { html, caption } => {
                writeln!(body, "<figure><figcaption>{}</figcaption>{html}</figure>", escaped(caption))
            }
        };
    }
    let title = escaped(&document.title);
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n<nav aria-label=\"Contents\"><ol>\n{contents}</ol></nav>\n\
         <main>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// A table that scrolls by itself where it is wide, also by keys. Without a caption it is called as
/// its section.
fn table(Table { caption, header, rows }: &Table, section: &str) -> String {
    let cells = |cells: &[String], scope: &str, all: bool| {
        let cell = |(column, cell): (usize, &String)| {
            let (tag, scope) = if all || column == 0 {
                ("th", format!(" scope=\"{scope}\""))
            } else {
                ("td", String::new())
            };
            format!("<{tag}{scope}>{}</{tag}>", escaped(cell))
        };
        cells.iter().enumerate().map(cell).collect::<String>()
    };
    let (label, caption) = match escaped(caption) {
        caption if caption.is_empty() => (section.to_owned(), caption),
        caption => (caption.clone(), format!("<caption>{caption}</caption>")),
    };
    let rows: String = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells(row, "row", false))).collect();
    format!(
        "<div class=\"scroll\" role=\"region\" aria-label=\"{label}\" tabindex=\"0\"><table>{caption}\n\
         <thead><tr>{}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n",
        cells(header, "col", true)
    )
}

/// A picture that says what it shows, in the colours of the page: what is black takes the colour of
/// the text.
fn labelled(svg: &str, caption: &str) -> String {
    let label = format!("<svg role=\"img\" aria-label=\"{}\" ", escaped(caption));
    let svg = svg.replacen("<svg ", &label, 1).replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
    svg.replace("\"#000000\"", "\"currentColor\"")
}

/// Text as HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // What no page may hold.
            '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_said_is_text() {
        let mut document = Document { title: "<a> & \"b\"".to_owned(), ..Document::default() };
        document.heading("it's");
        document.table(Table::new(["<x>", "y"], vec![vec!["1".to_owned(), "\u{1}".to_owned()]]));
        document.picture("<svg width=\"1\"><text fill=\"#000000\">x</text></svg>".to_owned(), "shows \"x\"");
        let page = page(&document);
        for expected in [
            "<h1>&lt;a&gt; &amp; &quot;b&quot;</h1>",
            "<h2 id=\"s1\">it&#39;s</h2>",
            "<a href=\"#s1\">it&#39;s</a>",
            "<th scope=\"col\">&lt;x&gt;</th>",
            "<th scope=\"row\">1</th><td>\u{fffd}</td>",
            "<svg role=\"img\" aria-label=\"shows &quot;x&quot;\" width=\"1\"><text fill=\"currentColor\">",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains("http") && !page.contains("<script"), "it needs nothing else");
    }
}
