"""What the small model says; apart from the model's code, which needs torch."""

THOUGHT = "Half of my layers run on one host, the rest elsewhere"
ANSWER = "Hello! This reply came from two hosts working as a single engine."
