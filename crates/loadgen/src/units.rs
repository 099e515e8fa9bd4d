//! Numbers for people: three significant digits and a unit.

/// Whole numbers in groups of three.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
    let mut text = String::from(sign);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits, or all of those before the point.
pub(crate) fn digits(value: f64) -> String {
    if value.abs() >= 99.95 || value == 0.0 {
        return grouped(value);
    }
    // Rounding may have carried into one digit more: 9.996 is 10.0.
    let scientific = format!("{value:.2e}");
    let exponent = scientific.rsplit_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    format!("{value:.0$}", (2_i32 - exponent).clamp(0, 9) as usize)
}

/// A duration in microseconds.
pub(crate) fn micros(value: f64) -> String {
    scaled(value, &[(1.0, "µs"), (1e3, "ms"), (1e6, "s")])
}

pub(crate) fn bytes(value: f64) -> String {
    const KIB: f64 = 1024.0;
    scaled(value, &[(1.0, "B"), (KIB, "KiB"), (KIB * KIB, "MiB"), (KIB * KIB * KIB, "GiB")])
}

/// In the largest of the units that `value` has one of.
fn scaled(value: f64, units: &[(f64, &str)]) -> String {
    let (size, name) = units.iter().rfind(|(size, _)| value.abs() >= *size).unwrap_or(&units[0]);
    format!("{} {name}", digits(value / size))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        let check = |found: String, expect: &str| assert_eq!(found, expect);
        check(grouped(0.0), "0");
        check(grouped(999.0), "999");
        check(grouped(1_000.4), "1,000");
        check(grouped(-1_234_567.0), "-1,234,567");
        check(digits(0.0), "0");
        check(digits(0.0123), "0.0123");
        check(digits(2.0), "2.00");
        check(digits(43.21), "43.2");
        check(digits(9.996), "10.0");
        check(digits(0.09996), "0.100");
        check(digits(99.96), "100");
        check(digits(1_234.5), "1,234");
        check(micros(0.31), "0.310 µs");
        check(micros(8_860.0), "8.86 ms");
        check(micros(13_500_000.0), "13.5 s");
        check(bytes(2_043.0), "2.00 KiB");
        check(bytes(12.0), "12.0 B");
        check(bytes(9.5 * 1_048_576.0), "9.50 MiB");
    }
}
