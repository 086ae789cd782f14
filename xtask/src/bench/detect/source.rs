//! Ordinary source code: what is found in it is nearly always false.

use std::path::{Path, PathBuf};

use anyhow::Result;

/// Bytes of a file; longer ones are data.
const MAX_FILE_BYTES: u64 = 1024 * 1024;
const MAX_BYTES: usize = 64 * 1024 * 1024;
const ENDINGS: [&str; 22] = [
    "rs", "py", "js", "ts", "c", "h", "go", "java", "rb", "sh", "toml", "json", "yaml", "yml",
    "md", "txt", "html", "css", "xml", "cfg", "ini", "lock",
];

/// Files of source code below `folder`, in order.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if kind.is_dir() && name != "target" && !name.starts_with('.') {
                folders.push(entry.path());
            }
            let is_source = ENDINGS.iter().any(|ending| name.rsplit('.').next() == Some(ending));
            if kind.is_file() && is_source && entry.metadata()?.len() <= MAX_FILE_BYTES {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Their texts, up to a bound.
pub(super) fn read(files: &[PathBuf]) -> Vec<(&Path, Vec<u8>)> {
    let mut bytes = 0_usize;
    let texts = files.iter().filter_map(|path| {
        let text = std::fs::read(path).ok()?;
        bytes = bytes.saturating_add(text.len());
        (bytes <= MAX_BYTES).then_some((path.as_path(), text))
    });
    texts.collect()
}
