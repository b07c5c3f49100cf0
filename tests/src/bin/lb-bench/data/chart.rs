//! The figures as charts.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::report::Report;
use super::row::Row;
use super::way::Way;

const SIZE: (u32, u32) = (1_100, 440);
const FONT: &str = "sans-serif";
/// Room for the names of the ways, in widths of a figure.
const LEGEND: f64 = 1.5;

/// Draws a chart for each number of Services: for each figure, what each way reaches of the direct way.
///
/// # Errors
/// If a file cannot be written.
pub fn draw(report: &Report, folder: &Path) -> Result<()> {
    for services in report.sizes() {
        bars(report, services, &folder.join(format!("data-{services}.svg")))?;
    }
    Ok(())
}

fn bars(report: &Report, services: usize, file: &Path) -> Result<()> {
    let ratio = |row, way| report.ratio(services, row, way, |figures| figures.rate);
    let ways: Vec<Way> =
        Way::ALL.into_iter().skip(1).filter(|way| ratio(Row::Connections, *way).is_some()).collect();
    let highest = Row::ALL.into_iter().flat_map(|row| ways.iter().filter_map(move |way| ratio(row, *way)));
    let top = highest.fold(1.0, f64::max) * 1.1;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("Of the direct way, with {services} other Services"), (FONT, 20))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d(0.0..Row::ALL.len() as f64 + LEGEND, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    let width = 0.8 / ways.len().max(1) as f64;
    for (i, way) in ways.iter().enumerate() {
        let color = Palette99::pick(i).mix(0.9);
        let bar = |(at, row): (usize, Row)| {
            let left = at as f64 + 0.1 + i as f64 * width;
            Rectangle::new(
                [(left, 0.0), (left + width * 0.9, ratio(row, *way).unwrap_or(0.0))],
                color.filled(),
            )
        };
        chart
            .draw_series(Row::ALL.into_iter().enumerate().map(bar))?
            .label(way.name())
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], color.filled()));
    }
    chart.draw_series(LineSeries::new([(0.0, 1.0), (Row::ALL.len() as f64, 1.0)], BLACK.mix(0.5)))?;
    for (at, row) in Row::ALL.into_iter().enumerate() {
        let (x, y) = chart.backend_coord(&(at as f64 + 0.5, 0.0));
        let style = (FONT, 13).into_font().into_text_style(&area);
        let style = style.pos(plotters::style::text_anchor::Pos::new(
            plotters::style::text_anchor::HPos::Center,
            plotters::style::text_anchor::VPos::Top,
        ));
        let (first, second) = split(row.name());
        area.draw(&Text::new(first, (x, y + 6), style.clone()))?;
        area.draw(&Text::new(second, (x, y + 20), style))?;
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK.mix(0.3)).draw()?;
    area.present()?;
    Ok(())
}

/// Two lines of a label.
fn split(name: &'static str) -> (&'static str, &'static str) {
    let at = name.find(", ").map(|at| at + 1).or_else(|| name.find(" without"));
    at.map_or((name, ""), |at| (&name[..at], name[at..].trim_start()))
}
