//! Charts made of characters: bars, sparklines and the heat map.

use crate::api::Sample;

/// Eighths of a character, beginning with none.
const EIGHTHS: [char; 8] = ['·', '▏', '▎', '▍', '▌', '▋', '▊', '▉'];

/// `value` of `most` as a bar of `width` characters. Any value above zero is visible.
pub fn bar(value: u64, most: u64, width: usize, is_ascii: bool) -> String {
    let eighths = (width * 8) as u128;
    let filled = match value {
        0 => 0,
        _ => (u128::from(value.min(most)) * eighths / u128::from(most.max(1))).max(1),
    };
    let cell = |nth: usize| {
        let left = filled.saturating_sub(nth as u128 * 8);
        match (left, is_ascii) {
            (8.., true) => '#',
            (8.., false) => '█',
            (0, true) => '.',
            (5.., true) => '=',
            (_, true) => '-',
            (left, false) => EIGHTHS[left as usize],
        }
    };
    (0..width).map(cell).collect()
}

const SPARKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const SPARKS_ASCII: [char; 8] = ['.', ':', '-', '=', '+', '*', '#', '@'];

/// One character for each value; the largest value gets the highest one.
pub fn spark(values: &[f64], is_ascii: bool) -> String {
    let ramp = if is_ascii { SPARKS_ASCII } else { SPARKS };
    let most = values.iter().copied().fold(0.0, f64::max);
    let step = |value: &f64| match most > 0.0 {
        // A NaN becomes zero; the cast saturates.
        true => ramp[((value / most * 7.0).round() as usize).min(7)],
        false => ramp[0],
    };
    values.iter().map(step).collect()
}

/// At most `width` values, each the largest of a group.
pub fn gathered(values: &[f64], width: usize) -> Vec<f64> {
    if values.len() <= width {
        return values.to_vec();
    }
    let place = |nth: usize| nth * values.len() / width;
    let group = |nth| &values[place(nth)..place(nth + 1)];
    let largest = |nth| group(nth).iter().copied().fold(0.0, f64::max);
    (0..width).map(largest).collect()
}

/// A sparkline of at most `width` characters.
pub fn sparks(values: impl Iterator<Item = f64>, width: usize, is_ascii: bool) -> String {
    let values: Vec<f64> = values.collect();
    spark(&gathered(&values, width), is_ascii)
}

/// Names of the classes of waiting times, shortest first.
pub const CLASSES: [&str; 7] = ["<10ms", "<100ms", "<1s", "<10s", "<1m", "<10m", ">10m"];

const DENSITY: [char; 10] = [' ', '.', ':', '-', '=', '+', '*', '#', '%', '@'];

/// Waiting times over time: a row for each class, longest first, at most `width` columns. Density is on
/// a logarithmic scale and needs neither colour nor Unicode.
pub fn heat(history: &[Sample], width: usize) -> Vec<String> {
    let most = history.iter().flat_map(|sample| sample.waits).max();
    let scale = (most.unwrap_or(0) as f64).ln_1p().max(1.0);
    let row = |class: usize| -> String {
        let counts: Vec<f64> = history.iter().map(|s| s.waits[class] as f64).collect();
        let cell = |count: &f64| match *count > 0.0 {
            true => DENSITY[((count.ln_1p() / scale * 9.0).ceil() as usize).clamp(1, 9)],
            false => ' ',
        };
        gathered(&counts, width).iter().map(cell).collect()
    };
    (0..CLASSES.len()).rev().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_as_asked_and_shows_the_least() {
        assert_eq!(bar(16_947, 16_947, 3, false), "███");
        assert_eq!(bar(341, 16_947, 3, false), "▏··");
        assert_eq!(bar(1, u64::MAX, 3, false), "▏··");
        assert_eq!(bar(0, 0, 3, false), "···");
        assert_eq!(bar(5, 0, 2, true), "-.");
        assert_eq!(bar(868, 868 + 30, 3, false), "██▉");
        assert_eq!(bar(2, 3, 3, true), "##.");
        assert_eq!(bar(9, 3, 0, true), "");
    }

    #[test]
    fn sparks_rise_to_the_largest() {
        assert_eq!(spark(&[0.0, 50.0, 100.0], false), "▁▅█");
        assert_eq!(spark(&[0.0, f64::NAN], true), "..");
        assert_eq!(gathered(&[1.0, 9.0, 2.0, 3.0], 2), [9.0, 3.0]);
        assert_eq!(sparks((0..90).map(f64::from), 9, true).len(), 9);
        assert!(gathered(&[1.0], 0).is_empty());
    }

    #[test]
    fn two_populations_are_two_bands() {
        let mut sample = Sample::default();
        sample.waits[0] = 10_000;
        sample.waits[6] = 100;
        let rows = heat(&[sample, sample], 24);
        assert_eq!(rows[0], "++");
        assert_eq!(rows[6], "@@");
        assert_eq!(rows[3], "  ");
        assert!(heat(&[], 24).iter().all(String::is_empty));
    }
}
