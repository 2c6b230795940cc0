//! `categories.parquet`: the categories of the labels, in the dataset's order.

use super::{MAX_TEXT_BYTES, Table, TableFile, TableWriter, batch, bounded, column, properties, schema};
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Category, Error, Result};
use arrow_array::{Array, Int64Array, StringViewArray};
use arrow_schema::DataType;
use std::path::Path;
use std::sync::Arc;

const COLUMNS: [(&str, DataType, bool); 3] = [
    ("id", DataType::Int64, false),
    ("name", DataType::Utf8View, false),
    ("supercategory", DataType::Utf8View, true),
];

/// Writes the categories to a staged file. [`Error::Invalid`] for a name that is too long to be one.
pub(crate) fn write(storage: &Arc<dyn Storage>, target: &Path, categories: &[Category]) -> Result<Staged> {
    let names =
        |category: &Category| category.name.len().max(category.supercategory.as_ref().map_or(0, String::len));
    if let Some(long) = categories.iter().find(|category| names(category) > MAX_TEXT_BYTES) {
        let what = format!("{} bytes, expected at most {MAX_TEXT_BYTES}", names(long));
        return Err(Error::invalid(format!("name of category {}: {what}", long.id)));
    }
    let schema = schema(&COLUMNS);
    let mut writer = TableWriter::create(storage, target, Arc::clone(&schema), properties())?;
    let columns: Vec<Arc<dyn Array>> = vec![
        Arc::new(Int64Array::from_iter_values(categories.iter().map(|c| c.id))),
        Arc::new(StringViewArray::from_iter_values(categories.iter().map(|c| &c.name))),
        Arc::new(StringViewArray::from_iter(categories.iter().map(|c| c.supercategory.as_deref()))),
    ];
    writer.write(&batch(&schema, columns)?)?;
    writer.finish()
}

/// Reads the categories.
pub(crate) fn read(file: TableFile) -> Result<Vec<Category>> {
    let table = Table::open(file, &schema(&COLUMNS))?;
    let (path, mut allowance) = (table.path(), table.allowance());
    let mut categories = Vec::new();
    for batch in table.batches(None)? {
        let batch = batch?;
        let ids = column::<Int64Array>(&batch, "id", path)?;
        let names = column::<StringViewArray>(&batch, "name", path)?;
        let groups = column::<StringViewArray>(&batch, "supercategory", path)?;
        for i in 0..batch.num_rows() {
            let name = bounded(names.value(i), "name", categories.len(), path)?;
            let group = groups.is_valid(i).then(|| groups.value(i));
            let group =
                group.map(|group| bounded(group, "supercategory", categories.len(), path)).transpose()?;
            allowance.take::<Category>(&[Some(name), group])?;
            let supercategory = group.map(str::to_owned);
            categories.push(Category { id: ids.value(i), name: name.to_owned(), supercategory });
        }
    }
    Ok(categories)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FsStorage;
    use crate::fixture::listing;

    #[test]
    fn categories_keep_their_order() {
        let folder = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage);
        let path = folder.path().join("categories.parquet");
        let mut categories = listing(1).categories;
        categories.reverse();
        write(&storage, &path, &categories).unwrap().publish().unwrap();
        let file = || TableFile::open(&path).unwrap();
        assert_eq!(read(file()).unwrap(), categories);
        write(&storage, &path, &[]).unwrap().publish().unwrap();
        assert_eq!(read(file()).unwrap(), []);
        categories[0].supercategory = Some("x".repeat(5000));
        assert!(write(&storage, &path, &categories).unwrap_err().to_string().contains("5000 bytes"));
    }
}
