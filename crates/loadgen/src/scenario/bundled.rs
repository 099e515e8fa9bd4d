//! The scenarios of loadtest/scenarios, which the program carries with it.

use super::Scenario;

macro_rules! bundled {
    ($($name:literal),* $(,)?) => {
        [$(($name, include_str!(concat!("../../../../loadtest/scenarios/", $name, ".toml")))),*]
    };
}

const BUNDLED: [(&str, &str); 14] = bundled![
    "ticker",
    "order-book",
    "hot-topic",
    "many-topics",
    "chat",
    "log-tail",
    "slow-readers",
    "reconnect-storm",
    "recovery-storm",
    "churn",
    "mixed",
    "big-messages",
    "idle",
    "ramp",
];

/// The text of the one called `name`.
pub(super) fn text(name: &str) -> Option<&'static str> {
    BUNDLED.iter().find(|(bundled, _)| *bundled == name).map(|(_, text)| *text)
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    BUNDLED.iter().map(|(name, _)| *name)
}

/// A line for each: name and title.
pub(crate) fn list() -> String {
    let line = |(name, text): &(&str, &str)| {
        let scenario: Scenario = toml::from_str(text).expect("a test reads all of them");
        format!("{name:<16} {}\n", scenario.title)
    };
    BUNDLED.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::load;

    #[test]
    fn all_of_them_can_be_run_also_when_small_and_say_what_they_are() {
        for name in names() {
            let scenario = load(name).unwrap();
            assert_eq!(scenario.name, name);
            assert!(!scenario.title.is_empty() && !scenario.about.is_empty(), "{name}");
            for factor in [0.001, 0.02, 4.0] {
                let mut scaled = scenario.clone();
                scaled.scale(factor);
                scaled.scale_time(0.1);
                assert_eq!(scaled.check(), Ok(()), "{name} times {factor}");
            }
        }
        assert_eq!(list().lines().count(), BUNDLED.len());
    }

    #[test]
    fn every_file_in_the_folder_is_bundled() {
        assert_eq!(files("").len(), BUNDLED.len());
    }

    #[test]
    fn those_of_the_comparison_with_others_can_be_run() {
        let files = files("/field");
        assert!(!files.is_empty());
        for file in files {
            let scenario = load(file.to_str().unwrap()).unwrap();
            assert!(!scenario.title.is_empty(), "{}", file.display());
        }
    }

    /// The files of a folder, without the folders in it.
    fn files(folder: &str) -> Vec<std::path::PathBuf> {
        let folder = format!("{}/../../loadtest/scenarios{folder}", env!("CARGO_MANIFEST_DIR"));
        let all = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.is_file()).collect()
    }
}
