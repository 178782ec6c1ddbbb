"""Weights: proven on the hub, staged once into a bucket or a folder, and their manifest.

What the staging Job runs (everything but verify and estimate) uses the standard library, huggingface_hub
and google-cloud-storage alone: it is mounted beside an engine image that has nothing else of ours.
"""
