//! Rooms, arrows and circles in words.

use std::{collections::BTreeSet, fmt::Write};

use super::{graph::Graph, house::House};

/// The table: a line for each package.
pub fn table(houses: &[House]) -> String {
    let mut text = line(["crate", "rooms", "floors", "arrows", "circles", "files", "circles of files"]);
    for house in houses {
        let circles = house.between.circles();
        let tied: usize = circles.iter().map(BTreeSet::len).sum();
        let tied = if tied == 0 { "0".to_owned() } else { format!("{} ({tied} rooms)", circles.len()) };
        text += &line([
            &house.name,
            &house.rooms.len().to_string(),
            &house.between.floors(house.rooms.len()).to_string(),
            &house.between.arrows().count().to_string(),
            &tied,
            &house.files.len().to_string(),
            &house.within.circles().len().to_string(),
        ]);
    }
    text
}

fn line(cells: [&str; 7]) -> String {
    let [name, rooms, floors, arrows, circles, files, inside] = cells;
    format!("{name:<14} {rooms:>5}  {floors:>6}  {arrows:>6}  {circles:<14}  {files:>5}  {inside:>16}\n")
}

/// Every arrow between rooms of a package.
pub fn arrows(house: &House) -> String {
    let everything: BTreeSet<usize> = (0..house.rooms.len()).collect();
    format!("\n{}: every arrow\n{}", house.name, ties(&house.between, &house.rooms, &everything))
}

/// Every circle of a package, of rooms and of files in a room, with the names that tie it.
pub fn circles(house: &House) -> String {
    let mut text = String::new();
    for (graph, places, what) in
        [(&house.between, &house.rooms, "rooms"), (&house.within, &house.files, "files of one room")]
    {
        for circle in graph.circles() {
            let names: Vec<&str> = circle.iter().map(|place| places[*place].as_str()).collect();
            let (count, names) = (circle.len(), names.join(", "));
            text += &format!("\n{}: a circle of {count} {what}: {names}\n", house.name);
            text += &ties(graph, places, &circle);
        }
    }
    text
}

/// The arrows within a set of places; those of fewest names, which are easiest to move, first.
fn ties(graph: &Graph, places: &[String], among: &BTreeSet<usize>) -> String {
    let mut arrows: Vec<_> =
        graph.arrows().filter(|(from, to, _)| among.contains(from) && among.contains(to)).collect();
    arrows.sort_by_key(|(from, to, names)| (names.len(), *from, *to));
    arrows.iter().fold(String::new(), |mut text, (from, to, _)| {
        let _ = writeln!(text, "  {}", arrow(graph, places, *from, *to));
        text
    })
}

fn arrow(graph: &Graph, places: &[String], from: usize, to: usize) -> String {
    format!("{} -> {}: {}", places[from], places[to], graph.names(from, to))
}

/// A line for each circle between rooms: the shortest way around, and the two imports on it that are easiest to
/// move because they have the fewest names.
pub fn advice(house: &House) -> Vec<String> {
    let (graph, rooms) = (&house.between, &house.rooms);
    let lines = graph.circles().into_iter().map(|circle| {
        let way = graph.shortest_way_around(&circle);
        let next = way.iter().cycle().skip(1);
        let mut arrows: Vec<(usize, usize)> = way.iter().copied().zip(next.copied()).collect();
        arrows.sort_by_key(|(from, to)| graph.weight(*from, *to));
        let imports: Vec<String> =
            arrows.iter().take(2).map(|(from, to)| arrow(graph, rooms, *from, *to)).collect();
        let names: Vec<&str> = circle.iter().map(|room| rooms[*room].as_str()).collect();
        format!(
            "{}: {} import from each other; move what one of these needs to a room below both: {}",
            house.name,
            names.join(", "),
            imports.join("; ")
        )
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::house::tests::house, *};

    const FILES: [(&str, &str); 4] = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::{b::B, c::{C, D}};"),
        ("b.rs", "use crate::c::C;"),
        ("c.rs", "use crate::a::A;"),
    ];

    #[test]
    fn the_advice_names_the_two_imports_of_the_shortest_way_around() {
        assert_eq!(
            advice(&house(&FILES)),
            ["house: a, b, c import from each other; move what one of these needs to a room below both: \
              c -> a: A (c.rs); a -> c: C, D (a.rs)"]
        );
        assert!(
            advice(&house(&FILES[..3].iter().copied().chain([("c.rs", "")]).collect::<Vec<_>>())).is_empty()
        );
    }

    #[test]
    fn a_circle_is_listed_with_what_ties_it() {
        let text = circles(&house(&FILES));
        assert!(text.starts_with("\nhouse: a circle of 3 rooms: a, b, c\n  a -> b: B (a.rs)\n"), "{text}");
        assert_eq!(text.lines().count(), 6);
    }

    #[test]
    fn the_table_counts() {
        let text = table(&[house(&FILES)]);
        let counts: Vec<&str> =
            text.lines().nth(1).expect("a line for the house").split_whitespace().collect();
        assert_eq!(counts, ["house", "4", "1", "4", "1", "(3", "rooms)", "4", "0"]);
    }
}
