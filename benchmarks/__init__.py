"""Side-by-side measurements: `python -m benchmarks.<name>`, each row one JSON line on stdout."""
