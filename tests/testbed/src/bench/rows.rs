//! The table of a benchmark run: values by name, printed as medians and written as JSON lines.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use serde_json::json;

use crate::error::Tried;
use crate::{Result, binaries};

/// Values of all rows, by name.
#[derive(Debug, Default)]
pub struct Rows(BTreeMap<&'static str, Row>);

#[derive(Debug)]
struct Row {
    unit: &'static str,
    note: String,
    values: Vec<f64>,
}

impl Rows {
    /// Adds a whole number: bytes, milliseconds, a count. Several values of a name become a median.
    pub fn add(&mut self, name: &'static str, unit: &'static str, note: &str, value: u64) {
        // Beyond 2^53 the last digits are lost, and nothing here comes near.
        #[expect(clippy::cast_precision_loss)]
        self.add_real(name, unit, note, value as f64);
    }

    /// Adds a ratio of two things measured in this run.
    pub fn add_ratio(&mut self, name: &'static str, note: &str, value: f64) {
        self.add_real(name, "ratio", note, value);
    }

    /// Adds a value that needs its fraction: milliseconds below 10, percent.
    pub fn add_real(&mut self, name: &'static str, unit: &'static str, note: &str, value: f64) {
        let row =
            self.0.entry(name).or_insert_with(|| Row { unit, note: note.to_owned(), values: Vec::new() });
        row.values.push(value);
    }

    /// Prints the table and writes `bench/results.jsonl` beside the folder of the programs. Rows of groups that
    /// did not run this time are kept in the file.
    pub fn write(&self) -> Result<()> {
        let folder = binaries::folder()?;
        let dir = folder.parent().unwrap_or(&folder).join("bench");
        fs::create_dir_all(&dir).tried(|| format!("cannot make {}", dir.display()))?;
        let path = dir.join("results.jsonl");
        let earlier = fs::read_to_string(&path).unwrap_or_default();
        let kept = earlier.lines().filter(|line| {
            serde_json::from_str::<serde_json::Value>(line)
                .is_ok_and(|row| row["name"].as_str().is_some_and(|name| !self.0.contains_key(name)))
        });
        let mut text: String = kept.flat_map(|line| [line, "\n"]).collect();
        println!("\n{:<36} {:>14} {:<7} {:>2} {:>14} {:>14}", "NAME", "MEDIAN", "UNIT", "N", "MIN", "MAX");
        for (name, row) in &self.0 {
            let mut sorted = row.values.clone();
            sorted.sort_unstable_by(f64::total_cmp);
            let (Some(min), Some(max), Some(median)) =
                (sorted.first(), sorted.last(), sorted.get(sorted.len() / 2))
            else {
                continue;
            };
            let [min, max, median] = [min, max, median].map(|value| shown(*value));
            println!("{name:<36} {median:>14} {:<7} {:>2} {min:>14} {max:>14}", row.unit, sorted.len());
            let number = |text: &str| text.parse::<serde_json::Number>().ok();
            let line = json!({"name": name, "value": number(&median), "unit": row.unit, "n": sorted.len(),
                              "min": number(&min), "max": number(&max), "note": row.note});
            text.extend([line.to_string().as_str(), "\n"]);
        }
        let mut file = fs::File::create(&path).tried(|| format!("cannot write {}", path.display()))?;
        file.write_all(text.as_bytes()).tried(|| format!("cannot write {}", path.display()))?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }
}

fn shown(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.3}") }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn whole_numbers_have_no_fraction() {
        assert_eq!(shown(16_200_000.0), "16200000");
        assert_eq!(shown(0.8125), "0.812");
    }
}
