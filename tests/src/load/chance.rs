//! Pearson's chi-square test of an even choice.

/// The probability with which a test of a fair choice may fail: a suite of a thousand such tests, run each minute of
/// a year, has an even chance of one false alarm.
pub const FALSE_ALARM: f64 = 1e-9;

/// With fewer expected answers for each choice, the distribution is not the one that the test supposes.
const FEWEST: f64 = 50.0;

/// The probability that an even choice comes out at least as unevenly as these counts.
pub fn of_at_most_this_even(counts: &[u64]) -> f64 {
    assert!(counts.len() > 1 && counts.len() % 2 == 1, "`tail` needs an odd number of choices");
    let even = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    assert!(even >= FEWEST, "too few answers for a statistical test: {counts:?}");
    let statistic = counts.iter().map(|count| (*count as f64 - even).powi(2) / even).sum();
    tail(statistic, counts.len() - 1)
}

/// P(X >= x) of the chi-square distribution, by its closed form for an even number of degrees of freedom:
/// e^(-x/2) times the first terms of the series of e^(x/2).
fn tail(x: f64, degrees: usize) -> f64 {
    let half = x / 2.0;
    let mut term = 1.0;
    let mut sum = 1.0;
    for i in 1..degrees / 2 {
        term *= half / i as f64;
        sum += term;
    }
    (-half).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_that_of_printed_tables() {
        for (x, degrees, expected) in
            [(5.991, 2, 0.05), (9.488, 4, 0.05), (13.277, 4, 0.01), (18.465, 4, 0.001)]
        {
            let got = tail(x, degrees);
            assert!((got - expected).abs() < expected * 0.01, "{x}, {degrees}: {got}");
        }
    }

    #[test]
    fn a_lopsided_choice_is_found_and_a_fair_one_is_not() {
        assert!(of_at_most_this_even(&[1_000, 1_040, 960]) > 0.01);
        assert!(of_at_most_this_even(&[1_300, 850, 850]) < FALSE_ALARM);
        assert!(of_at_most_this_even(&[1_000, 1_000, 0]) < FALSE_ALARM);
    }
}
