"""Real vocabularies and chat templates, random weights: all of it on models of megabytes."""
