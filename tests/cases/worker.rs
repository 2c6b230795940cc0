//! Which worker this is, from flags and launchers' variables, and the order in which it takes units.

use featcache_extractor::worker::Worker;
use std::collections::HashMap;

/// Variables as `NAME=value`, separated by spaces.
fn detect(rank: Option<u64>, world: Option<u64>, variables: &str) -> Result<(u64, u64), String> {
    let variables: HashMap<&str, &str> =
        variables.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
    let found = Worker::detect(rank, world, |name| variables.get(name).map(|value| (*value).to_owned()))?;
    Ok((found.rank, found.world))
}

#[test]
fn launchers_are_understood() {
    for (variables, expected) in [
        ("", (0, 1)),
        // torchrun; it also sets LOCAL_RANK, which is of one node.
        ("RANK=3 WORLD_SIZE=8 LOCAL_RANK=1 LOCAL_WORLD_SIZE=2", (3, 8)),
        // srun.
        ("SLURM_PROCID=5 SLURM_NTASKS=16 SLURM_LOCALID=1", (5, 16)),
        // An array of jobs of one task each; task ids need not begin at 0.
        (
            "SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_ARRAY_TASK_ID=12 SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_COUNT=4",
            (2, 4),
        ),
        // Open MPI, then MPICH and Intel MPI, whose variables are the same.
        ("OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", (1, 2)),
        ("PMI_RANK=7 PMI_SIZE=9", (7, 9)),
        // mpirun inside an allocation of one task: the first launcher that tells of more than one worker.
        ("SLURM_PROCID=0 SLURM_NTASKS=1 OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2", (1, 2)),
        ("JOB_COMPLETION_INDEX=4 JOB_COMPLETIONS=6", (4, 6)),
        // Kubernetes sets the index alone.
        ("JOB_COMPLETION_INDEX=4", (0, 1)),
        // Half a pair and what is no number say nothing.
        ("RANK=2", (0, 1)),
        ("RANK=two WORLD_SIZE=8 PMI_RANK=1 PMI_SIZE=3", (1, 3)),
        ("RANK=-1 WORLD_SIZE=8", (0, 1)),
    ] {
        assert_eq!(detect(None, None, variables), Ok(expected), "{variables}");
    }
}

#[test]
fn flags_win_over_variables_and_ranks_are_below_the_world() {
    let variables = "RANK=3 WORLD_SIZE=8";
    assert_eq!(detect(Some(1), Some(2), variables), Ok((1, 2)));
    assert_eq!(detect(Some(5), None, variables), Ok((5, 8)));
    assert_eq!(detect(None, Some(4), variables), Ok((3, 4)));
    let refused = |rank, world, variables| detect(rank, world, variables).unwrap_err();
    assert_eq!(refused(None, Some(3), variables), "rank 3 is not below the world size 3");
    assert_eq!(refused(Some(1), None, ""), "rank 1 is not below the world size 1");
    assert_eq!(refused(Some(0), Some(0), ""), "rank 0 is not below the world size 0");
}

#[test]
fn own_units_come_first_and_the_others_follow() {
    let order = |rank, world| Worker { rank, world }.order((0..7).collect::<Vec<_>>());
    assert_eq!(order(0, 1), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(order(1, 3), [1, 4, 0, 2, 3, 5, 6]);
    // A worker of more workers than units has none of its own.
    assert_eq!(order(8, 9), [0, 1, 2, 3, 4, 5, 6]);
}
