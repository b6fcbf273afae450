//! How results get into the documentation: one JSON file, and what is made of it.
//!
//! Nothing there is written by hand, and a test makes all of it again, so that pictures, tables and
//! figures never disagree.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    bars::{Bar, Better},
    machine::Machine,
    missed, pictures,
    report::Report,
    show::found,
};

const RESULTS: &str = "results.json";

/// Around the table in the README.
const BEGIN: &str = "<!-- made by `make bench ARGS=--redraw` -->\n";
const END: &str = "<!-- until here -->";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn directory() -> PathBuf {
    root().join("docs/bench")
}

pub(crate) fn json(report: &Report) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// Makes these the published results.
///
/// # Errors
/// The daemon was built without optimisation; a file cannot be written.
pub(crate) fn publish(report: &Report) -> Result<()> {
    ensure!(
        !cfg!(debug_assertions),
        "results of a debug build are nobody's: use `make bench ARGS=--publish`"
    );
    fs::create_dir_all(directory())?;
    write(&directory().join(RESULTS), &json(report)?)?;
    redraw()
}

/// Makes everything again that is made of the published results.
pub(crate) fn redraw() -> Result<()> {
    let report = published()?;
    for (path, text) in pages(&report)? {
        write(&path, &text)?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn published() -> Result<Report> {
    let path = directory().join(RESULTS);
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut report: Report =
        serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))?;
    // The bars may have changed since.
    report.bars = crate::bars::of(&report);
    Ok(report)
}

/// Each file that is made of the results, and what is in it.
fn pages(report: &Report) -> Result<Vec<(PathBuf, String)>> {
    let drawn = pictures::draw(report)?;
    let names: Vec<&str> = drawn.iter().map(|(name, _)| name.as_str()).collect();
    let mut pages = vec![(directory().join("README.md"), page(report, &names))];
    let readme = root().join("README.md");
    let text = fs::read_to_string(&readme)?;
    let headlines = |bar: &&Bar| !bar.what.contains("IPv6");
    let headlines = table(report.bars.iter().filter(headlines));
    let table = format!("{}\n\n{headlines}", on(report));
    pages.push((readme, between(&text, &table)?));
    pages.extend(
        drawn
            .into_iter()
            .map(|(name, svg)| (directory().join(name), svg)),
    );
    Ok(pages)
}

fn between(text: &str, table: &str) -> Result<String> {
    let Some(((before, rest), place)) = text.split_once(BEGIN).zip(Some(BEGIN)) else {
        bail!("README.md has no line {BEGIN:?}");
    };
    let (_, after) = rest
        .split_once(END)
        .with_context(|| format!("README.md has no {END:?}"))?;
    Ok([before, place, table, END, after].concat())
}

/// Where it was measured, in a line.
fn on(report: &Report) -> String {
    let Some(Machine {
        kernel,
        cpu,
        cores,
        memory_gib,
        ..
    }) = &report.machine
    else {
        return String::new();
    };
    let quick = if report.quick {
        " A quick look: fewer rounds, samples and places; `make bench ARGS=--publish` replaces it."
    } else {
        ""
    };
    format!("Measured on Linux {kernel}, {cpu}, {cores} cores, {memory_gib} GiB.{quick}")
}

fn page(report: &Report, pictures: &[&str]) -> String {
    let mut text = String::from(
        "# What the filter costs\n\nMade by `make bench ARGS=--publish` from [results.json](results.json), \
         which holds every round.\nThe contestants take turns; a ratio is the median of the ratios of a \
         round.\n\n",
    );
    text += &on(report);
    text += "\n\n";
    let mitigations = report
        .machine
        .iter()
        .flat_map(|machine| &machine.mitigations);
    for (fault, mitigation) in mitigations {
        let _ = writeln!(text, "* {fault}: {mitigation}");
    }
    text += "\n## What is promised\n\n";
    text += &table(report.bars.iter());
    let reasons = missed::reasons(report);
    if !reasons.is_empty() {
        text += "\n## What no filter could reach here\n";
        for reason in reasons {
            let _ = write!(text, "\n* {reason}\n");
        }
    }
    text += "\n## Curves\n\nA program in front of each contestant writes the source into the frame; what \
             that and the kernel's harness cost is in every figure and is the grey line. \"Random\" sources \
             come from anywhere outside the list, \"next to listed\" ones from one network of which every \
             eighth host is listed. The references do nothing else: the trie is looked up, the LRU hash \
             counts.\n";
    for picture in pictures {
        let name = picture.trim_end_matches(".svg");
        let _ = write!(text, "\n![{name}]({picture})\n");
    }
    text
}

fn table<'a>(bars: impl Iterator<Item = &'a Bar>) -> String {
    let mut text = String::from("| what | found | bar |\n|---|---|---|\n");
    for Bar {
        what,
        found: number,
        bar,
        is_met,
        unit,
        better,
    } in bars
    {
        let unit = match unit.as_str() {
            "" => String::new(),
            unit => format!(" {unit}"),
        };
        let words = match better {
            Better::Less => "at most",
            Better::More => "at least",
        };
        let met = if *is_met { "" } else { ", **missed**" };
        let found = found(*number);
        let _ = writeln!(
            text,
            "| {what} | {found}{unit} | {words} {bar}{unit}{met} |"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever changes the bars, the pictures or the results runs `make bench ARGS=--redraw`.
    #[test]
    fn what_is_published_is_made_of_the_published_results() {
        let report = published().unwrap();
        let pages = pages(&report).unwrap();
        for (path, expected) in &pages {
            let found = fs::read_to_string(path).unwrap_or_default();
            let same = found == *expected;
            assert!(
                same,
                "{} is not of {RESULTS}: run `make bench ARGS=--redraw`",
                path.display()
            );
        }
        for file in fs::read_dir(directory()).unwrap() {
            let path = file.unwrap().path();
            let is_made = pages.iter().any(|(made, _)| *made == path);
            assert!(
                is_made || path.ends_with(RESULTS),
                "{} is of no results",
                path.display()
            );
        }
    }

    #[test]
    fn a_missed_bar_is_not_hidden() {
        let bar = Bar {
            what: "drop".to_owned(),
            found: 1.574,
            bar: 1.0,
            is_met: false,
            unit: String::new(),
            better: Better::Less,
        };
        let met = Bar {
            is_met: true,
            unit: "MiB".to_owned(),
            ..bar.clone()
        };
        let text = table([bar, met].iter());
        let rows: Vec<&str> = text.lines().skip(2).collect();
        let expected = [
            "| drop | 1.57 | at most 1, **missed** |",
            "| drop | 1.57 MiB | at most 1 MiB |",
        ];
        assert_eq!(rows, expected);
    }

    #[test]
    fn the_rest_of_the_readme_stays() {
        let text = format!("before\n{BEGIN}old\n{END}\nafter\n");
        let expected = format!("before\n{BEGIN}new\n{END}\nafter\n");
        assert_eq!(between(&text, "new\n").unwrap(), expected);
        assert!(between("nothing", "new").is_err());
    }
}
