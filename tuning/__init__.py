"""Search over any objective: spaces, samplers, the choice inside a budget, the report. It knows no job."""
