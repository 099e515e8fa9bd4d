//! A configuration file that is gone with the test.

use tempfile::NamedTempFile;

pub struct ConfigFile(NamedTempFile);

impl ConfigFile {
    pub fn new(text: impl AsRef<[u8]>) -> Self {
        let file = NamedTempFile::new().expect("a file can be made");
        std::fs::write(file.path(), text).expect("the file can be written");
        Self(file)
    }

    /// Has another text from now on.
    pub fn rewrite(&self, text: impl AsRef<[u8]>) {
        std::fs::write(self.0.path(), text).expect("the file can be written");
    }

    pub fn path(&self) -> &str {
        self.0.path().to_str().expect("the path is text")
    }
}
