//! A place for namespaces and processes that are no lab, undone as a lab's are.

use anyhow::{Context as _, Result};

use super::{clear, place, temporary_name, undo};
use crate::fabric::Place;
use crate::progress::Progress;
use crate::record::Record;

/// What is made here is recorded, so that an interruption or the next start removes it.
#[derive(Debug)]
pub(crate) struct Bare {
    pub(crate) place: Place,
    pub(crate) record: Record,
}

impl Bare {
    /// Makes the folder and the record; nothing else.
    pub(crate) async fn make(purpose: &str) -> Result<Self> {
        let place = place(&temporary_name(purpose))?;
        clear(&place, &Progress::hidden()).await?;
        std::fs::create_dir_all(&place.directory)
            .with_context(|| format!("cannot make {}", place.directory.display()))?;
        let record = Record::create(&place.directory)?;
        Ok(Self { place, record })
    }

    /// Ends what still runs and removes everything.
    pub(crate) async fn remove(self) -> Result<()> {
        undo(&self.place).await
    }
}
