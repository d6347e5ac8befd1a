//! The table that a run prints, a row as soon as it is known.

/// Against what a figure is held.
#[derive(Clone, Copy)]
pub enum Target {
    /// As much as this, or more.
    AtLeast(f64),
    /// As much as this, or less.
    AtMost(f64),
    /// It is there to compare others with.
    None,
}

/// Prints the names of the columns.
pub fn print_head() {
    print("RATIO", "", "MEASURED", "TARGET", "WHAT");
}

/// Prints one figure. The ratio says how many times the target is met: 1.00 is just met.
pub fn row(what: &str, measured: f64, unit: &str, target: Target) {
    let (ratio, sign, wanted) = match target {
        Target::AtLeast(wanted) => (measured / wanted, "≥ ", wanted),
        // Less than nothing, as a difference may be, is as good as nothing.
        Target::AtMost(wanted) => (wanted / measured.max(f64::MIN_POSITIVE), "≤ ", wanted),
        Target::None => return print("", "", &number(measured, unit), "", what),
    };
    let verdict = if ratio >= 1.0 { "met" } else { "missed" };
    let wanted = format!("{sign}{}", number(wanted, unit));
    let ratio = format!("{:.2}", ratio.min(99.99));
    print(&ratio, verdict, &number(measured, unit), &wanted, what);
}

/// Prints what explains the rows above it.
pub fn note(text: &str) {
    println!("{:<8}{:<8}  {text}", "", "");
}

fn print(ratio: &str, verdict: &str, measured: &str, target: &str, what: &str) {
    println!("{ratio:<8}{verdict:<8}{measured:>16}  {target:>16}  {what}");
}

/// Large numbers in thousands, small ones with what matters of their fraction.
fn number(value: f64, unit: &str) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        _ => 2,
    };
    let plain = format!("{value:.digits$}");
    let grouped = match plain.len() {
        length if digits == 0 && length > 3 => {
            let (thousands, rest) = plain.split_at(length - 3);
            match thousands.len() {
                millions if millions > 3 => {
                    let (millions, thousands) = thousands.split_at(millions - 3);
                    format!("{millions},{thousands},{rest}")
                }
                _ => format!("{thousands},{rest}"),
            }
        }
        _ => plain,
    };
    format!("{grouped}{unit}")
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
