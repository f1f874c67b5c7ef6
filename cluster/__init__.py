"""The ground of every run: the local cluster, workers, the engine, checkpoints, tracking. It knows no task."""
