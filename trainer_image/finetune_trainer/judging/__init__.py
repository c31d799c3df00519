"""What is made of evaluations in the course of training: when there is one, what is kept for it, when to stop."""
