//! Aligned columns of text.

/// Renders a table. Cells may have several lines; columns are as wide as their widest line, two spaces apart.
pub(crate) fn render<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(|title| title.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.lines().map(|line| line.chars().count()).chain([*width]).max().unwrap_or(0);
        }
    }
    let mut text = line(header, &widths);
    for row in rows {
        let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0);
        for index in 0..height {
            text += &line(row.each_ref().map(|cell| cell.lines().nth(index).unwrap_or("")), &widths);
        }
    }
    text
}

fn line<const N: usize>(cells: [&str; N], widths: &[usize; N]) -> String {
    let cells: Vec<String> =
        cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}", width = *width)).collect();
    format!("{}\n", cells.join("  ").trim_end())
}

/// A line for each entry, up to a limit; a dash if there are none.
pub(crate) fn list(lines: &[String]) -> String {
    const SHOWN: usize = 8;
    if lines.is_empty() {
        return "-".to_owned();
    }
    if lines.len() <= SHOWN {
        return lines.join("\n");
    }
    format!("{}\nand {} more", lines[..SHOWN - 1].join("\n"), lines.len() - SHOWN + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_of_several_lines_keep_their_column() {
        let rows = [["a".to_owned(), list(&["1".to_owned(), "22".to_owned()]), "x".to_owned()]];
        assert_eq!(render(["N", "LIST", "Z"], &rows), "N  LIST  Z\na  1     x\n   22\n");
    }

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let lines: Vec<String> = (0..9).map(|n| n.to_string()).collect();
        assert_eq!(list(&lines), "0\n1\n2\n3\n4\n5\n6\nand 2 more");
        assert_eq!(list(&lines[..8]).lines().count(), 8);
    }
}
