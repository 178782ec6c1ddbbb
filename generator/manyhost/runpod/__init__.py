"""RunPod: what is rented there, and how it is always given back."""
