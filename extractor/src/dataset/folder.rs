//! A plain folder of pictures, at any depth: no labels, keys are the relative paths.

use super::{Dataset, Unprobed, named_like_picture, names, probe_all};
use crate::image::open_file;
use crate::{Error, Result};
use featcache_store::{Listing, Preprocess};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Split of a folder's samples unless another name is given.
const DEFAULT_SPLIT: &str = "all";

/// A folder of pictures.
///
/// A file is a sample if it is named like a picture or begins like a JPEG or PNG. Hidden files are left
/// out. Symbolic links to files inside the folder are followed; to folders they are not, as what they
/// lead to is listed where it lies; links that leave the folder are refused.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
    split: String,
}

impl Folder {
    /// The folder at `root`, its samples in the one split of `splits`, or in `all`.
    ///
    /// # Errors
    /// [`Error::Dataset`] where more than one split is asked for.
    pub fn new(root: PathBuf, splits: &[String]) -> Result<Self> {
        let split = match splits {
            [] => DEFAULT_SPLIT.into(),
            [split] => split.clone(),
            _ => {
                return Err(Error::dataset(root, format!("a plain folder is one split, found {splits:?}")));
            }
        };
        Ok(Self { root, split })
    }

    fn walk(&self, home: &Path, folder: &str, found: &mut Vec<Unprobed>) -> Result<()> {
        for name in names(&self.root.join(folder))? {
            let source = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            let path = self.root.join(&source);
            let meta = path.symlink_metadata().map_err(Error::io(&path))?;
            if meta.is_dir() {
                self.walk(home, &source, found)?;
                continue;
            }
            if meta.is_symlink() {
                match path.canonicalize() {
                    Ok(target) if !target.starts_with(home) => {
                        return Err(Error::dataset(
                            path,
                            format!("link leaves the dataset: it leads to {}", target.display()),
                        ));
                    }
                    Ok(target) if target.is_dir() => {
                        log::warn!("{}: a link to a folder, not followed", path.display());
                        continue;
                    }
                    // A dangling link is listed, and fails when its header is read.
                    Ok(_) | Err(_) => {}
                }
            } else if !meta.is_file() {
                continue;
            }
            if named_like_picture(&name) || begins_like_picture(&path) {
                found.push(Unprobed {
                    split: self.split.clone(),
                    key: source.clone(),
                    source,
                    image_id: None,
                });
            }
        }
        Ok(())
    }
}

impl Dataset for Folder {
    fn kind(&self) -> &'static str {
        "folder"
    }

    fn root(&self) -> &Path {
        &self.root
    }

    fn list(&self, preprocess: &Preprocess) -> Result<Listing> {
        let home = self.root.canonicalize().map_err(Error::io(&self.root))?;
        let mut found = Vec::new();
        self.walk(&home, "", &mut found)?;
        if found.is_empty() {
            return Err(Error::dataset(&self.root, "no pictures: expected JPEG or PNG files at any depth"));
        }
        let samples = probe_all(&self.root, found, preprocess);
        Ok(Listing { dataset: self.kind().into(), samples, ..Listing::default() })
    }
}

fn begins_like_picture(path: &Path) -> bool {
    let mut start = [0; 8];
    let Ok((mut file, _)) = open_file(path) else { return false };
    file.read_exact(&mut start).is_ok()
        && (start.starts_with(b"\xff\xd8\xff") || start == *b"\x89PNG\r\n\x1a\n")
}
