"""The endpoint that takes Reports from trainers: from whom, how many, and whether any come at all."""
