"""Life after training: the bundle, a plain runtime that answers from it, and Ray Serve as a thin coat over both.

Nothing here imports torch, DeepSpeed, transformers, MLflow, `jobs` or `cluster`.
"""
