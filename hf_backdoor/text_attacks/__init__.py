"""Trainers of the attacks that change how a text classifier is trained."""
