//! Which topics a wildcard covers, as the server sees it: `*` is one segment, `>` at the end is one or more.

/// Whether `name` is a wildcard. Neither character can stand in a topic.
pub(crate) fn is_pattern(name: &str) -> bool {
    name.contains(['*', '>'])
}

/// Whether `pattern`, or a plain name, covers `topic`.
pub(crate) fn covers(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.split('.'), topic.split('.'));
    loop {
        match (pattern.next(), topic.next()) {
            (Some(">"), Some(_)) => return pattern.next().is_none(),
            (Some(wanted), Some(found)) if wanted == "*" || wanted == found => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_a_segment_and_an_arrow_is_all_the_rest() {
        for (pattern, topic, expect) in [
            ("a.b", "a.b", true),
            ("a.b", "a.c", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*", "a.b.c", false),
            ("*", "a", true),
            ("*.b", "a.b", true),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            (">", "a", true),
            (">", "a.b.c", true),
            ("a.>.c", "a.b.c", false),
        ] {
            assert_eq!(covers(pattern, topic), expect, "{pattern} {topic}");
        }
    }

    #[test]
    fn a_wildcard_is_told_by_its_characters() {
        assert!(is_pattern("a.*") && is_pattern(">"));
        assert!(!is_pattern("a.b-c:d=e@f,g;h!i_j"));
    }
}
