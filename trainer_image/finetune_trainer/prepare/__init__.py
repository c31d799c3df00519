"""From a JSONL file to token ids and labels on the storage volume."""
