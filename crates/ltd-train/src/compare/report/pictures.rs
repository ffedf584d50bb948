//! Figures of a report as SVG, drawn without a font library. Their numbers are in its tables, too.

use plotters::coord::Shift;
use plotters::prelude::*;

use super::part::Ratio;

const FONT: &str = "sans-serif";
const WIDTH: u32 = 900;
/// Colours that can be told apart on white and on black (Okabe and Ito, 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T = ()> = Result<T, DrawingAreaErrorKind<std::io::Error>>;

/// Points of a line, with its name.
pub(super) type Line = (String, Vec<(f64, f64)>);

/// Ratios one below the other, with their 95 % intervals and a line at 1. What may be chance is
/// grey.
pub(super) fn ratios(rows: &[(String, Ratio)], axis: &str) -> String {
    const NAMES: u32 = 330;
    const ROW: u32 = 26;
    let height = 62 + ROW * rows.len() as u32;
    drawn(height, |area| {
        let (labels, plot) = area.split_horizontally(NAMES);
        let bounds = rows.iter().flat_map(|(_, row)| [row.interval[0], row.interval[1]]);
        let (least, most) = (bounds.clone().fold(1.0, f64::min), bounds.fold(1.0, f64::max));
        let room = (most - least).max(0.1) * 0.05;
        let mut chart = ChartBuilder::on(&plot)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(46)
            .build_cartesian_2d(least - room..most + room, 0.0..rows.len() as f64)?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .disable_y_axis()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_desc(axis)
            .draw()?;
        let ends = [(1.0, 0.0), (1.0, rows.len() as f64)];
        chart.draw_series(DashedLineSeries::new(ends, 4, 3, BLACK.stroke_width(1)))?;
        for (place, (name, row)) in rows.iter().enumerate() {
            let y = rows.len() as f64 - 0.5 - place as f64;
            let colour = if row.sure { COLOURS[0] } else { COLOURS[6] };
            let [low, high] = row.interval;
            chart.draw_series([PathElement::new([(low, y), (high, y)], colour.stroke_width(2))])?;
            chart.draw_series([Circle::new((row.value, y), 4, colour.filled())])?;
            let place = (8, (8 + ROW * place as u32 + ROW / 2) as i32 - 7);
            labels.draw(&Text::new(name.clone(), place, (FONT, 14)))?;
        }
        Ok(())
    })
}

/// Lines with their names beside them.
pub(super) fn lines(lines: &[Line], x: &str, y: &str) -> String {
    drawn(380, |area| {
        let (plot, legend) = area.split_horizontally(WIDTH - 260);
        let points = || lines.iter().flat_map(|(_, points)| points);
        let range = |of: fn(&(f64, f64)) -> f64| {
            let least = points().map(of).fold(f64::MAX, f64::min);
            let most = points().map(of).fold(f64::MIN, f64::max);
            (least.min(most), if most > least { most } else { least + 1.0 })
        };
        let ((first, last), (lowest, highest)) = (range(|point| point.0), range(|point| point.1));
        let mut chart = ChartBuilder::on(&plot)
            .margin(8)
            .x_label_area_size(46)
            .y_label_area_size(62)
            .build_cartesian_2d(first..last, lowest.min(0.0) * 1.05..highest.max(1e-9) * 1.05)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(BLACK.mix(0.15))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_desc(x)
            .y_desc(y)
            .draw()?;
        for (number, (_, points)) in lines.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            chart.draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?;
            // Colours come again; what is drawn at the points does not.
            if number < COLOURS.len() {
                chart.draw_series(points.iter().map(|&point| Circle::new(point, 3, colour.filled())))?;
            } else {
                let marks = points.iter().map(|&point| Cross::new(point, 4, colour.stroke_width(1)));
                chart.draw_series(marks)?;
            }
        }
        names(&legend, lines.iter().map(|(name, _)| name.as_str()))
    })
}

/// Shares of a whole, one bar for each row, with the names of the shares beside them.
pub(super) fn shares(rows: &[(String, Vec<f64>)], parts: &[&str]) -> String {
    let height = 50 + 26 * rows.len() as u32;
    drawn(height, |area| {
        let (plot, legend) = area.split_horizontally(WIDTH - 160);
        let (labels, bars) = plot.split_horizontally(260);
        for (place, (name, shares)) in rows.iter().enumerate() {
            let top = 20 + 26 * place as i32;
            labels.draw(&Text::new(name.clone(), (8, top + 3), (FONT, 14)))?;
            let width = f64::from(WIDTH - 160 - 260 - 16);
            let mut left = 0.0;
            for (number, share) in shares.iter().enumerate() {
                let right = left + share;
                let [from, to] = [left, right].map(|at| (at * width).round() as i32);
                bars.draw(&Rectangle::new(
                    [(from, top), (to, top + 18)],
                    COLOURS[number % COLOURS.len()].filled(),
                ))?;
                left = right;
            }
        }
        names(&legend, parts.iter().copied())
    })
}

/// A cell of a map: how often, and the value.
pub(super) type Cell = Option<(usize, f64)>;

/// Values by two choices as a map, darker for more, with the value in each cell.
pub(super) fn map(columns: &[String], rows: &[(String, Vec<Cell>)], x: &str, y: &str) -> String {
    let height = 80 + 30 * rows.len() as u32;
    drawn(height, |area| {
        let values = rows.iter().flat_map(|(_, cells)| cells.iter().flatten().map(|(_, value)| *value));
        let most = values.fold(0.0, f64::max).max(f64::MIN_POSITIVE);
        let (left, top) = (90, 40);
        let width = ((WIDTH as i32 - left - 20) / columns.len().max(1) as i32).min(90);
        area.draw(&Text::new(y.to_owned(), (8, 14), (FONT, 14)))?;
        for (column, name) in columns.iter().enumerate() {
            area.draw(&Text::new(name.clone(), (left + column as i32 * width + 6, 20), (FONT, 13)))?;
        }
        for (row, (name, cells)) in rows.iter().enumerate() {
            let y = top + 30 * row as i32;
            area.draw(&Text::new(name.clone(), (40, y + 8), (FONT, 13)))?;
            for (column, cell) in cells.iter().enumerate() {
                let Some((_, value)) = cell else { continue };
                let x = left + column as i32 * width;
                let fill = COLOURS[0].mix(0.1 + 0.7 * value / most);
                area.draw(&Rectangle::new([(x, y), (x + width - 2, y + 28)], fill.filled()))?;
                area.draw(&Text::new(format!("{value:.2}"), (x + 6, y + 8), (FONT, 13)))?;
            }
        }
        area.draw(&Text::new(x.to_owned(), (left, top + 30 * rows.len() as i32 + 10), (FONT, 14)))
    })
}

fn names<'n>(area: &Area, names: impl Iterator<Item = &'n str>) -> Drawn {
    for (number, name) in names.enumerate() {
        let y = 24 + 20 * number as i32;
        let colour = COLOURS[number % COLOURS.len()];
        if number < COLOURS.len() {
            area.draw(&Rectangle::new([(8, y - 5), (22, y + 5)], colour.filled()))?;
        } else {
            area.draw(&Cross::new((15, y), 5, colour.stroke_width(2)))?;
        }
        area.draw(&Text::new(name.to_owned(), (30, y - 7), (FONT, 14)))?;
    }
    Ok(())
}

/// A picture in memory, which can always be drawn.
fn drawn(height: u32, draw: impl FnOnce(&Area) -> Drawn) -> String {
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        draw(&root).and_then(|()| root.present()).expect("invariant: a picture in memory can be drawn");
    }
    svg
}
