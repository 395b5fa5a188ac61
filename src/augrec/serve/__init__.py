"""A trained recommender in use: bundles and top-k lists. Imports neither the trainer nor the plug-ins."""
