//! Throughput of all constants as a picture: a line per depth, verification sizes on a logarithmic
//! axis.

use std::path::Path;

use ltd_policy::write_atomically;
use plotters::coord::Shift;
use plotters::prelude::*;

use super::{Report, Setting};
use crate::Result;

/// Of one trace's picture; several stand below each other. Pixels.
const PANEL: (u32, u32) = (900, 520);
const LEGEND_WIDTH: u32 = 110;
const LEGEND_LINE: i32 = 22;
const TITLE_HEIGHT: u32 = 64;
const FONT: &str = "sans-serif";

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = std::result::Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Draws the reports below each other and writes the picture, complete or not at all.
pub(super) fn write(path: &Path, reports: &[Report]) -> Result<()> {
    let svg = draw(reports).expect("invariant: a picture in memory can be drawn");
    Ok(write_atomically(path, svg.as_bytes())?)
}

fn draw(reports: &[Report]) -> Drawn<String> {
    let mut svg = String::new();
    {
        let size = (PANEL.0, PANEL.1 * reports.len() as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, report) in root.split_evenly((reports.len(), 1)).iter().zip(reports) {
            panel(area, report)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn panel(area: &Area, report: &Report) -> Drawn {
    let (title, below) = area.split_vertically(TITLE_HEIGHT);
    let (plot, legend) = below.split_horizontally(PANEL.0 - LEGEND_WIDTH);
    let lines: Vec<&[Setting]> = report.grid.chunk_by(|a, b| a.depth == b.depth).collect();
    captions(&title, report)?;
    curves(&plot, report, &lines)?;
    names(&legend, &lines)
}

/// What the picture shows, and the numbers worth knowing.
fn captions(area: &Area, report: &Report) -> Drawn {
    let best = report.best_constant;
    let gain = (report.clairvoyant / best.tokens_per_second - 1.0) * 100.0;
    let name = format!("{}: tokens/s of constants", report.trace);
    let marks = format!(
        "circle: best constant, depth {}, size {}, {:.1} tokens/s; dashed: foresight of both, {:.1} ({gain:+.1} %)",
        best.depth, best.size, best.tokens_per_second, report.clairvoyant
    );
    area.draw(&Text::new(name, (20, 14), (FONT, 20)))?;
    area.draw(&Text::new(marks, (20, 42), (FONT, 15)))
}

fn curves(area: &Area, report: &Report, lines: &[&[Setting]]) -> Drawn {
    let place = |setting: &Setting| ((setting.size as f64).log2(), setting.tokens_per_second);
    let sizes = || report.grid.iter().map(|setting| (setting.size as f64).log2());
    // A grid of one size still needs an axis.
    let (first, last) = (sizes().fold(f64::MAX, f64::min), sizes().fold(0.0, f64::max).max(1.0));
    let mut chart = ChartBuilder::on(area)
        .margin(10)
        .x_label_area_size(46)
        .y_label_area_size(62)
        .build_cartesian_2d(first.min(last - 1.0)..last, 0.0..report.clairvoyant * 1.05)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.12))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15))
        .x_desc("verification size")
        .y_desc("tokens/s")
        .x_labels(9)
        .x_label_formatter(&|size| format!("{}", (size.exp2() * 10.0).round() / 10.0))
        .y_label_formatter(&|reached| format!("{reached}"))
        .draw()?;
    for (line, settings) in lines.iter().enumerate() {
        let style = colour(line, lines.len()).stroke_width(2);
        chart.draw_series(LineSeries::new(settings.iter().map(place), style))?;
    }
    let ends = [first.min(last - 1.0), last].map(|size| (size, report.clairvoyant));
    chart.draw_series(DashedLineSeries::new(ends, 6, 4, BLACK.stroke_width(1)))?;
    chart.draw_series([Circle::new(place(&report.best_constant), 6, BLACK.stroke_width(2))])?;
    Ok(())
}

fn names(area: &Area, lines: &[&[Setting]]) -> Drawn {
    let mut y = 24;
    area.draw(&Text::new("depth", (8, y - 6), (FONT, 15)))?;
    for (line, settings) in lines.iter().enumerate() {
        y += LEGEND_LINE;
        area.draw(&PathElement::new([(8, y), (32, y)], colour(line, lines.len()).stroke_width(3)))?;
        area.draw(&Text::new(settings[0].depth.to_string(), (40, y - 6), (FONT, 14)))?;
    }
    Ok(())
}

/// From dark for the first line to light for the last one.
fn colour(line: usize, lines: usize) -> RGBColor {
    // The lightest colours cannot be seen on white.
    ViridisRGB::get_color_normalized(line as f64, 0.0, lines as f64 * 1.1)
}
