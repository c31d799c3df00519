"""What lies beside a result and tells how it was made: a model card, a plot of losses, and a manifest."""
