"""Pure: what there is of a job, as plain values, and how they are read from what the API server has."""
