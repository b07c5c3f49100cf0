//! Text in columns: the first two to the left, figures to the right.

use std::fmt;
use std::time::Duration;

const LEFT_COLUMNS: usize = 2;

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new(head: Vec<String>) -> Self {
        Self { rows: vec![head] }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn lines(&self) -> usize {
        self.rows.len()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column| self.rows.iter().filter_map(|row| row.get(column)).map(String::len).max();
        let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
        for row in &self.rows {
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = if column == 0 { "" } else { "  " };
                if column < LEFT_COLUMNS {
                    write!(f, "{gap}{cell:<width$}")?;
                } else {
                    write!(f, "{gap}{cell:>width$}")?;
                }
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// A figure; a dot where there is none.
pub fn count(count: Option<&u64>) -> String {
    count.map_or(".".into(), u64::to_string)
}

pub fn latency(latency: Option<Duration>) -> String {
    latency.map_or(".".into(), |latency| format!("{} us", latency.as_micros()))
}
