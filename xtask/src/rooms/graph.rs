//! Arrows between numbered places: which places lie on a circle, and how many floors there are.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The names that an arrow stands for, each with the file that imports it.
pub type Names = BTreeSet<(String, String)>;

/// A directed graph.
#[derive(Default)]
pub struct Graph {
    arrows: BTreeMap<(usize, usize), Names>,
    next: BTreeMap<usize, BTreeSet<usize>>,
}

impl Graph {
    /// Adds a name that `file` imports to the arrow between two places. A place has no arrow to itself. No file is
    /// named if the places are files.
    pub fn add(&mut self, from: usize, to: usize, file: &str, name: &str) {
        if from != to {
            self.arrows.entry((from, to)).or_default().insert((file.to_owned(), name.to_owned()));
            self.next.entry(from).or_default().insert(to);
        }
    }

    /// Every arrow, with its names.
    pub fn arrows(&self) -> impl Iterator<Item = (usize, usize, &Names)> {
        self.arrows.iter().map(|(&(from, to), names)| (from, to, names))
    }

    fn next(&self, place: usize) -> impl Iterator<Item = usize> {
        self.next.get(&place).into_iter().flatten().copied()
    }

    /// The places that can be reached from `start` along at least one arrow.
    fn reach(&self, start: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<usize> = self.next(start).collect();
        while let Some(place) = open.pop() {
            if reached.insert(place) {
                open.extend(self.next(place));
            }
        }
        reached
    }

    /// The sets of more than one place that all reach each other (strongly connected components).
    pub fn circles(&self) -> Vec<BTreeSet<usize>> {
        let reach: BTreeMap<usize, BTreeSet<usize>> =
            self.next.keys().map(|&place| (place, self.reach(place))).collect();
        let meets = |a: usize, b: &usize| reach.get(b).is_some_and(|reached| reached.contains(&a));
        let circles: BTreeSet<BTreeSet<usize>> = reach
            .iter()
            .map(|(&place, reached)| reached.iter().copied().filter(|other| meets(place, other)).collect())
            .filter(|circle: &BTreeSet<usize>| circle.len() > 1)
            .collect();
        circles.into_iter().collect()
    }

    /// The number of places on the longest way that goes only downwards; a circle is one floor.
    pub fn floors(&self, places: usize) -> usize {
        let mut floor_of: Vec<usize> = (0..places).collect();
        for circle in self.circles() {
            let first = circle.first().copied().unwrap_or_default();
            circle.into_iter().for_each(|place| floor_of[place] = first);
        }
        let mut merged = Self::default();
        for &(from, to) in self.arrows.keys() {
            merged.add(floor_of[from], floor_of[to], "", "");
        }
        let mut heights = BTreeMap::new();
        (0..places).map(|place| merged.height(floor_of[place], &mut heights)).max().unwrap_or_default()
    }

    /// The number of floors from `place` down; the graph must have no circle.
    fn height(&self, place: usize, heights: &mut BTreeMap<usize, usize>) -> usize {
        if let Some(height) = heights.get(&place) {
            return *height;
        }
        let below = self.next(place).map(|next| self.height(next, heights)).max();
        let height = below.unwrap_or_default() + 1;
        heights.insert(place, height);
        height
    }

    /// The shortest way from a place of `circle` back to the same place.
    pub fn shortest_way_around(&self, circle: &BTreeSet<usize>) -> Vec<usize> {
        let ways = circle.iter().filter_map(|&start| self.way_back(start));
        ways.min_by_key(Vec::len).unwrap_or_default()
    }

    /// The places on the shortest way from `start` back to `start`, beginning with `start`.
    fn way_back(&self, start: usize) -> Option<Vec<usize>> {
        let mut came_from = BTreeMap::new();
        let mut open = VecDeque::from([start]);
        while let Some(place) = open.pop_front() {
            for next in self.next(place) {
                if next == start {
                    let mut way = vec![place];
                    while let Some(&previous) = came_from.get(&way[way.len() - 1]) {
                        way.push(previous);
                    }
                    way.reverse();
                    return Some(way);
                }
                came_from.entry(next).or_insert_with(|| {
                    open.push_back(next);
                    place
                });
            }
        }
        None
    }

    /// The number of names of the arrow between two places.
    pub fn weight(&self, from: usize, to: usize) -> usize {
        self.arrows.get(&(from, to)).map_or(0, BTreeSet::len)
    }

    /// The names of the arrow between two places, as text: `Rule, check (a/x.rs); Rule (a/y.rs)`.
    pub fn names(&self, from: usize, to: usize) -> String {
        let mut by_file: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (file, name) in self.arrows.get(&(from, to)).into_iter().flatten() {
            by_file.entry(file).or_default().push(name);
        }
        let of_file = |(file, names): (&str, Vec<&str>)| match file {
            "" => names.join(", "),
            _ => format!("{} ({file})", names.join(", ")),
        };
        by_file.into_iter().map(of_file).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(arrows: &[(usize, usize)]) -> Graph {
        let mut graph = Graph::default();
        arrows.iter().for_each(|&(from, to)| graph.add(from, to, "a.rs", "x"));
        graph
    }

    #[test]
    fn a_way_down_is_no_circle() {
        let graph = graph(&[(0, 1), (1, 2), (0, 2), (3, 2)]);
        assert!(graph.circles().is_empty());
        assert_eq!(graph.floors(5), 3);
    }

    #[test]
    fn a_circle_is_one_floor() {
        let graph = graph(&[(0, 1), (1, 2), (2, 1), (2, 3), (3, 3)]);
        assert_eq!(graph.circles(), [BTreeSet::from([1, 2])]);
        assert_eq!(graph.floors(4), 3);
    }

    #[test]
    fn circles_that_meet_nowhere_are_counted_apart() {
        let graph = graph(&[(0, 1), (1, 0), (1, 2), (2, 3), (3, 4), (4, 2)]);
        assert_eq!(graph.circles().len(), 2);
    }

    #[test]
    fn names_are_listed_by_file() {
        let mut graph = Graph::default();
        for (file, name) in [("b.rs", "X"), ("a.rs", "Y"), ("b.rs", "W")] {
            graph.add(0, 1, file, name);
        }
        assert_eq!(graph.names(0, 1), "Y (a.rs); W, X (b.rs)");
        assert_eq!(graph.weight(0, 1), 3);
    }

    #[test]
    fn the_shortest_way_around_is_found() {
        let graph = graph(&[(0, 1), (1, 2), (2, 3), (3, 0), (2, 1)]);
        let circles = graph.circles();
        assert_eq!(circles, [BTreeSet::from([0, 1, 2, 3])]);
        assert_eq!(graph.shortest_way_around(&circles[0]), [1, 2]);
    }

    #[test]
    fn the_shortest_way_is_found_among_longer_ones() {
        let graph = graph(&[(0, 1), (1, 0), (0, 2), (2, 3), (3, 0), (1, 4), (4, 5), (5, 1)]);
        assert_eq!(graph.shortest_way_around(&graph.circles()[0]), [0, 1]);
    }
}
