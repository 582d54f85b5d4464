"""The gate: stages that compare the published bytes with the run."""
