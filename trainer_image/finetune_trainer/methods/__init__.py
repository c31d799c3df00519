"""What each training method adds; the loop, the data, the checkpoints and the Reports are everybody's."""
