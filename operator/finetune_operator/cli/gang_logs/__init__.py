"""What the pods of a gang print, as one log."""
