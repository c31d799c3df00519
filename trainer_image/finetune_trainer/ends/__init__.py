"""How processes end: by request, by what went wrong, and what that is called."""
