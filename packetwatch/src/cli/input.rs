//! Files that are sent to the daemon.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, bail};

/// What is in a file, or comes from stdin for `-`: at most `most` bytes. `beyond` says what to make of
/// a file that is larger.
///
/// # Errors
/// It cannot be read or is larger; the text names it.
pub(super) fn read(file: &Path, most: u64, beyond: &str) -> anyhow::Result<Vec<u8>> {
    let mut body = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(most + 1).read_to_end(&mut body)
    } else {
        File::open(file).and_then(|file| file.take(most + 1).read_to_end(&mut body))
    };
    let size = read.with_context(|| format!("cannot read {}", file.display()))?;
    if size as u64 > most {
        bail!("{} is larger than {most} bytes{beyond}", file.display());
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_the_most_is_read_and_one_byte_more_is_not() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("list");
        fs::write(&file, [b'x'; 8]).unwrap();
        assert_eq!(read(&file, 8, "").unwrap(), [b'x'; 8]);
        let error = read(&file, 7, ": load it in parts").unwrap_err();
        let expected = format!(
            "{} is larger than 7 bytes: load it in parts",
            file.display()
        );
        assert_eq!(error.to_string(), expected);
        let error = read(&home.path().join("none"), 7, "").unwrap_err();
        assert!(error.to_string().starts_with("cannot read "), "{error}");
    }
}
