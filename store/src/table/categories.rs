//! `categories.parquet`: the categories of the labels, in the dataset's order.

use super::{Table, TableWriter, batch, column, properties, schema};
use crate::staged::Staged;
use crate::storage::Storage;
use crate::{Category, Result};
use arrow_array::{Array, Int64Array, StringViewArray};
use arrow_schema::DataType;
use std::path::Path;
use std::sync::Arc;

const COLUMNS: [(&str, DataType, bool); 3] = [
    ("id", DataType::Int64, false),
    ("name", DataType::Utf8View, false),
    ("supercategory", DataType::Utf8View, true),
];

/// Writes the categories to a staged file.
pub(crate) fn write(storage: &Arc<dyn Storage>, target: &Path, categories: &[Category]) -> Result<Staged> {
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
pub(crate) fn read(path: &Path) -> Result<Vec<Category>> {
    let table = Table::open(path, &schema(&COLUMNS))?;
    let mut categories = Vec::new();
    for batch in table.batches(None)? {
        let batch = batch?;
        let ids = column::<Int64Array>(&batch, "id", path)?;
        let names = column::<StringViewArray>(&batch, "name", path)?;
        let groups = column::<StringViewArray>(&batch, "supercategory", path)?;
        categories.extend((0..batch.num_rows()).map(|i| Category {
            id: ids.value(i),
            name: names.value(i).to_owned(),
            supercategory: groups.is_valid(i).then(|| groups.value(i).to_owned()),
        }));
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
        assert_eq!(read(&path).unwrap(), categories);
        write(&storage, &path, &[]).unwrap().publish().unwrap();
        assert_eq!(read(&path).unwrap(), []);
    }
}
