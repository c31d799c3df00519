"""What a run tells: to the operator, on the storage volume, and with its last words."""
