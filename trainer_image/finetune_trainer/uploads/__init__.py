"""Results that are copied to where people look for models."""
