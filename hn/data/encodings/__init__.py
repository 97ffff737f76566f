"""Cached text embeddings: conditioning and text features of prompts, on disk and in memory."""
