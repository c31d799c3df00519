"""Pure: what the status of a job says, and which events a change of it is worth."""
