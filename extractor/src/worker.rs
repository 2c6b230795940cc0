//! Which worker this is among how many: from flags, or from what the cluster's launcher has set.

/// Rank and number of workers. Nothing is pinned to them: they only decide where a worker starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worker {
    /// 0 ≤ rank < world.
    pub rank: u64,
    /// Number of workers.
    pub world: u64,
}

/// Launchers and the pair of variables that each sets; indexed Kubernetes jobs do not tell the world size.
const LAUNCHERS: [(&str, &str); 5] = [
    ("RANK", "WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
];

impl Worker {
    /// Flags win over launcher variables; without either there is one worker. `variable` looks up the
    /// environment.
    ///
    /// # Errors
    /// A rank that is not below the world size, told with both numbers.
    pub fn detect(
        rank: Option<u64>,
        world: Option<u64>,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let number = |name: &str| variable(name).and_then(|v| v.trim().parse::<u64>().ok());
        let array = || {
            let rank = number("SLURM_ARRAY_TASK_ID")?.checked_sub(number("SLURM_ARRAY_TASK_MIN")?)?;
            Some((rank, number("SLURM_ARRAY_TASK_COUNT")?))
        };
        let found = LAUNCHERS
            .iter()
            .filter_map(|(rank, world)| Some((number(rank)?, number(world)?)))
            // A one-task launcher says nothing; an array of one-task jobs does.
            .find(|(_, world)| *world > 1)
            .or_else(array)
            .unwrap_or((0, 1));
        let worker = Self { rank: rank.unwrap_or(found.0), world: world.unwrap_or(found.1.max(1)) };
        if worker.rank >= worker.world {
            return Err(format!("rank {} is not below the world size {}", worker.rank, worker.world));
        }
        Ok(worker)
    }

    /// The same units with this worker's own first; the rest follow, so that whatever others leave is done.
    pub fn order<T>(self, units: Vec<T>) -> Vec<T> {
        let (mut own, mut others) = (Vec::new(), Vec::new());
        for (index, unit) in units.into_iter().enumerate() {
            if index as u64 % self.world == self.rank { own.push(unit) } else { others.push(unit) }
        }
        own.append(&mut others);
        own
    }
}
