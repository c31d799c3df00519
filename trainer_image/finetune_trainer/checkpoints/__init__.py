"""What a run keeps: models for people, and states that a later attempt goes on from."""
