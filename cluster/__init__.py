"""What every run stands on: the local cluster, workers, the engine, checkpoints, tracking. It knows no task."""
