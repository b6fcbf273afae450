//! The curves as pictures: SVG without a background, in colours and greys that can be read on a light
//! page and on a dark one.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::{coord::ranged1d::KeyPointHint, prelude::*};

use crate::{
    curve::{Contestant, Curve, Line, Packets},
    family::Family,
    report::Report,
    show::{name, short},
};

const SIZE: (u32, u32) = (760, 430);

const TEXT: RGBColor = RGBColor(125, 133, 144);

/// What one picture shows.
struct Picture<'a> {
    file: String,
    title: String,
    axis: &'static str,
    curve: &'a Curve,
    /// `None` for both
    family: Option<Family>,
    scale: Scale,
}

/// Of both axes. A logarithmic one has 0 where 0.1 were.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    Linear,
    Logarithmic,
}

impl Scale {
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Logarithmic => value.max(0.1).log10(),
        }
    }

    /// Of places in order those whose names have room beside each other: the first, and each that is far
    /// enough behind the one before.
    fn apart(self, mut places: Vec<f64>) -> Vec<f64> {
        if self == Self::Logarithmic {
            // Of a decade, which has some 90 points on the longest axis.
            const ROOM: f64 = 0.4;
            places.dedup_by(|next, before| self.place(*next) - self.place(*before) < ROOM);
        }
        places
    }
}

/// The names of the files and what is in them.
///
/// # Errors
/// There is nothing to draw in one of them.
pub(crate) fn draw(report: &Report) -> Result<Vec<(String, String)>> {
    let mut pictures = Vec::new();
    for (curve, file, title, axis) in [
        (
            &report.prefixes,
            "prefixes",
            "What a good packet pays for a deny list",
            "denied prefixes",
        ),
        (
            &report.sources,
            "sources",
            "What counting costs when ever more sources come",
            "different sources",
        ),
    ] {
        let Some(curve) = curve else { continue };
        for family in Family::ALL {
            let lower = family.to_string().to_lowercase();
            pictures.push(Picture {
                file: format!("{file}-{lower}.svg"),
                title: format!("{title}, {family}"),
                axis,
                curve,
                family: Some(family),
                scale: Scale::Logarithmic,
            });
        }
    }
    for (curve, file, title, axis) in [
        (
            &report.rules,
            "rules",
            "What a good packet pays for rules",
            "rules",
        ),
        (
            &report.interfaces,
            "interfaces",
            "What a good packet pays for interfaces",
            "interfaces, of which it comes in on the last",
        ),
    ] {
        let Some(curve) = curve else { continue };
        pictures.push(Picture {
            file: format!("{file}.svg"),
            title: title.to_owned(),
            axis,
            curve,
            family: None,
            scale: Scale::Linear,
        });
    }
    let drawn = pictures.iter().map(|picture| {
        let svg = picture.draw()?;
        Ok((picture.file.clone(), svg))
    });
    drawn.collect()
}

impl Picture<'_> {
    fn lines(&self) -> Vec<&Line> {
        let is_shown = |line: &&Line| self.family.is_none_or(|family| line.family == family);
        self.curve.lines.iter().filter(is_shown).collect()
    }

    fn draw(&self) -> Result<String> {
        let mut svg = String::new();
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        self.draw_on(&area)
            .map_err(|error| anyhow!("draw {}: {error}", self.file))?;
        drop(area);
        Ok(svg + "\n")
    }

    fn draw_on<DB: DrawingBackend>(
        &self,
        area: &DrawingArea<DB, plotters::coord::Shift>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let lines = self.lines();
        let all = places(&lines);
        let places = self.scale.apart(all.clone());
        let costs = self.ticks_of_costs(&lines);
        let range = |ticks: &[f64], margin| {
            let at = |tick: Option<&f64>| self.scale.place(tick.copied().unwrap_or(1.0));
            at(ticks.first()) - margin..at(ticks.last()) + margin
        };
        let points = |ticks: &[f64]| Ticks {
            range: 0.0..0.0,
            at: ticks.iter().map(|tick| self.scale.place(*tick)).collect(),
        };
        let x = Ticks {
            range: range(&all, 0.2),
            ..points(&places)
        };
        let y = Ticks {
            range: range(&costs, 0.0),
            ..points(&costs)
        };
        let label = |ticks: &[f64], at: f64| {
            let near = ticks
                .iter()
                .find(|tick| (self.scale.place(**tick) - at).abs() < 1e-6);
            near.map_or(String::new(), |tick| short(*tick as u64))
        };
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 18, &TEXT))
            .margin(14)
            .x_label_area_size(44)
            .y_label_area_size(62)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .axis_style(TEXT.mix(0.8))
            .bold_line_style(TEXT.mix(0.25))
            .light_line_style(TRANSPARENT)
            .label_style(("sans-serif", 13, &TEXT))
            .axis_desc_style(("sans-serif", 14, &TEXT))
            .x_desc(self.axis)
            .y_desc("ns a packet, harness included")
            .x_label_formatter(&|at| label(&places, *at))
            .y_label_formatter(&|at| label(&costs, *at))
            .draw()?;
        for line in lines {
            let style = style(line, self.family.is_none()).stroke_width(2);
            let points: Vec<(f64, f64)> = (line.points.iter())
                .map(|point| {
                    (
                        self.scale.place(point.at as f64),
                        self.scale.place(point.ns()),
                    )
                })
                .collect();
            let title = name(line.contestant, line.packets);
            let title = match self.family {
                Some(_) => title.to_owned(),
                None => format!("{title}, {}", line.family),
            };
            chart
                .draw_series(LineSeries::new(points.iter().copied(), style))?
                .label(title)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 22, y)], style));
            let dots = points.iter().map(|at| Circle::new(*at, 3, style.filled()));
            chart.draw_series(dots)?;
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 13, &TEXT))
            .margin(12)
            .draw()?;
        area.present()
    }

    /// From below the cheapest to above the dearest, at round numbers; from 0 on a linear axis.
    fn ticks_of_costs(&self, lines: &[&Line]) -> Vec<f64> {
        let costs = lines.iter().flat_map(|line| &line.points);
        let costs: Vec<f64> = costs.map(|point| point.ns()).collect();
        let least = costs.iter().copied().fold(f64::INFINITY, f64::min);
        let most = costs.iter().copied().fold(0.0, f64::max);
        match self.scale {
            Scale::Linear => {
                // Room for the legend above.
                let step = [10.0, 20.0, 50.0, 100.0, 200.0, 500.0];
                let fits = |step: &&f64| most * 1.5 / **step <= 10.0;
                let step = step.iter().find(fits).copied().unwrap_or(1000.0);
                let count = (most * 1.5 / step).ceil() as u32;
                (0..=count).map(|n| f64::from(n) * step).collect()
            }
            Scale::Logarithmic => {
                let decades = (0..6).flat_map(|n| [1.0, 2.0, 5.0].map(|of| of * 10f64.powi(n)));
                let all: Vec<f64> = decades.collect();
                let first = all.partition_point(|tick| *tick <= least).saturating_sub(1);
                let last = all.partition_point(|tick| *tick < most * 2.5);
                all[first..=last.min(all.len() - 1)].to_vec()
            }
        }
    }
}

fn places(lines: &[&Line]) -> Vec<f64> {
    let mut places: Vec<u64> = (lines.iter())
        .flat_map(|line| line.points.iter().map(|point| point.at))
        .collect();
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|at| at as f64).collect()
}

fn style(line: &Line, both_families: bool) -> ShapeStyle {
    let colour = match (line.contestant, line.packets) {
        (Contestant::Harness, _) => RGBColor(139, 148, 158),
        (Contestant::Trie | Contestant::Lru, Packets::Nearby) => RGBColor(191, 135, 0),
        (Contestant::Trie | Contestant::Lru, _) => RGBColor(219, 97, 9),
        (Contestant::Packetwatch, Packets::Nearby | Packets::Datagrams | Packets::Flood) => {
            RGBColor(31, 157, 85)
        }
        (Contestant::Packetwatch, _) => RGBColor(47, 129, 247),
    };
    let paler = both_families && line.family == Family::V6;
    colour.mix(if paler { 0.55 } else { 1.0 }).into()
}

/// An axis whose marks are where we say.
struct Ticks {
    range: Range<f64>,
    at: Vec<f64>,
}

impl Ranged for Ticks {
    type FormatOption = plotters::coord::ranged1d::NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let Range { start, end } = self.range;
        let share = (value - start) / (end - start);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.at.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

impl plotters::coord::ranged1d::ValueFormatter<f64> for Ticks {
    fn format(value: &f64) -> String {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::Point;

    fn report() -> Report {
        let line = |contestant, ns: [f64; 3]| Line {
            family: Family::V4,
            contestant,
            packets: Packets::Anywhere,
            points: [0, 1000, 4_000_000]
                .into_iter()
                .zip(ns)
                .map(|(at, ns)| Point {
                    at,
                    rounds: vec![ns],
                })
                .collect(),
        };
        let curve = Curve {
            lines: vec![
                line(Contestant::Packetwatch, [100.0, 110.0, 130.0]),
                line(Contestant::Trie, [30.0, 120.0, 1700.0]),
            ],
        };
        Report {
            rules: Some(curve),
            ..Report::default()
        }
    }

    #[test]
    fn a_picture_names_its_lines_axes_and_places() {
        let pictures = draw(&report()).unwrap();
        let [(file, svg)] = &pictures[..] else {
            panic!("{} pictures", pictures.len());
        };
        assert_eq!(file, "rules.svg");
        for words in [
            "What a good packet pays for rules",
            "packetwatch, random, IPv4",
            "LPM trie, random, IPv4",
            "ns a packet, harness included",
            "4 M",
        ] {
            assert!(svg.contains(words), "{words}\n{svg}");
        }
        // Twice the same: pictures are compared byte by byte.
        assert_eq!(draw(&report()).unwrap(), pictures);
    }

    #[test]
    fn places_that_are_close_to_each_other_are_not_all_named() {
        let close = vec![0.0, 1.0, 10_000.0, 16_000.0, 20_000.0, 32_000.0, 100_000.0];
        let named = [0.0, 1.0, 10_000.0, 32_000.0, 100_000.0];
        assert_eq!(Scale::Logarithmic.apart(close), named);
        let each: Vec<f64> = (0..8).map(f64::from).collect();
        assert_eq!(Scale::Linear.apart(each.clone()), each);
    }

    #[test]
    fn nothing_is_painted_behind_a_picture() {
        let (_, svg) = draw(&report()).unwrap().remove(0);
        for colour in ["#FFFFFF", "#000000"] {
            assert!(!svg.contains(colour), "{colour} is unreadable on one page");
        }
    }
}
